"""Tell whether this Python has all that pyproject.toml asks for: `sos/run/environment.py`.

`python sos/run/environment.py [--test]` exits with 0, or prints what is missing and exits with 1.
It uses the standard library only and is run as a file, because it checks interpreters that may have
nothing installed.
"""

import sys
from pathlib import Path

# When run as a file, its folder comes first in sys.path, and `import datasets` would find ours.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
INTERRUPTED = Path(sys.prefix, ".installing")  # run_all.sh removes it when the installation ends


def wanted(test: bool = False) -> list[str]:
    """Return the requirements in pyproject.toml, with `test` also those of the extra "test"."""
    import tomllib

    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    return project["dependencies"] + (project["optional-dependencies"]["test"] if test else [])


def unmet(requirements: list[str]) -> list[str]:
    """Return one line for each requirement that is not installed within its range."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        from packaging.requirements import Requirement
    except ImportError:  # a bare environment, in which much else is missing too
        from pip._vendor.packaging.requirements import Requirement
    lines = []
    for requirement in map(Requirement, requirements):
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = None
        if found is None:
            lines.append(f"{requirement} is not installed")
        elif not requirement.specifier.contains(found, prereleases=True):
            lines.append(f"{requirement} is wanted, {found} is installed")
    return lines


def problems(test: bool = False) -> list[str]:
    """Return why this interpreter cannot run the collection; an empty list if it can."""
    if sys.version_info < (3, 11):  # noqa: UP036 - it may well be run by an older one
        return [f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}"]
    if INTERRUPTED.exists():
        return [f"the installation into {sys.prefix} was interrupted"]
    try:
        lines = unmet(wanted(test))
        if not lines:  # versions that do not match install without complaint and fail here
            import torch  # noqa: F401
            import torchvision  # noqa: F401
    except Exception as error:  # whatever a broken installation raises
        lines = [f"{type(error).__name__}: {error}"]
    return lines


if __name__ == "__main__":
    found = problems(test="--test" in sys.argv[1:])
    print("\n".join(found) or f"{sys.executable} has everything")
    sys.exit(bool(found))
