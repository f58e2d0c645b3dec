"""Which state of the code is at work."""

import subprocess
from functools import cache

from sos.system import paths


@cache
def commit() -> str | None:
    """Return the commit that is checked out, with "+" where the package differs from it.

    Returns None where there is no git or no checkout.
    """
    git = ["git", "-C", str(paths.ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, check=True)
        differs = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "sos"], check=False)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.decode().strip() + "+" * (differs.returncode != 0)
