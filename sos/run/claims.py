"""Write CLAIMS.md from the ledger and the released records.

python -m sos.run.claims
"""

from sos import profiles
from sos.analysis import claims, seeds
from sos.figures.claims import counts, page
from sos.system import paths

PAGE = paths.ROOT / "CLAIMS.md"


def main() -> None:
    """Write the page and print how many claims have each verdict."""
    found = claims.load(seeds.records_of(profiles.profile("demo"), "released"))
    paths.write_text(PAGE, page(found))
    print(f"{PAGE}: {counts(found)}")


if __name__ == "__main__":
    main()
