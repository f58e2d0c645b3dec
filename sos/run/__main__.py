"""`python -m sos.run`, which run_all.sh calls."""

import sys

from sos.run.runner import main

if __name__ == "__main__":
    sys.exit(main())
