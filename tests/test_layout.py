"""The package is walked from the first folder to the last: none imports from a later one."""

import ast
import re

import pytest

from sos.system import paths

# Each may import from itself and from those before it.
ORDER = (
    "system", "config", "distributions", "datasets", "profiles", "models", "training", "analysis",
    "figures", "widgets", "run",
)  # fmt: skip
FILES = sorted(paths.PACKAGE.rglob("*.py"))


def place(file) -> str:
    """The folder, or the module of its own, that a file belongs to."""
    return file.relative_to(paths.PACKAGE).with_suffix("").parts[0]


def imported(source: str) -> set[str]:
    """Folders and modules of the package that a source imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sos":
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = (alias.name.split(".") for alias in node.names)
            found |= {name[1] for name in names if name[0] == "sos" and len(name) > 1}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(paths.PACKAGE)))
def test_no_folder_imports_from_a_later_one(file):
    here = place(file)
    if here == "__init__":
        assert not imported(file.read_text(encoding="utf-8"))
        return
    later = set(ORDER[ORDER.index(here) + 1 :])
    assert imported(file.read_text(encoding="utf-8")) <= set(ORDER) - later


def test_imports_are_found_wherever_they_stand():
    source = (
        "def f():\n    from sos import run\n    import sos.widgets.page\nfrom sos.figures import x"
    )
    assert imported(source) == {"run", "widgets", "figures"}


def test_every_folder_says_what_it_is_and_what_is_public():
    for folder in {place(file) for file in FILES} & set(ORDER) - {"config", "profiles"}:
        source = (paths.PACKAGE / folder / "__init__.py").read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(source)), folder
        assert re.search(r"^__all__ = ", source, re.MULTILINE), folder


def test_the_low_rank_normal_can_be_copied():
    """It needs torch and the standard library alone."""
    source = (paths.PACKAGE / "distributions" / "low_rank_normal.py").read_text(encoding="utf-8")
    assert not imported(source)
    packages = {
        line.split()[1].split(".")[0] for line in re.findall(r"^(?:from|import) .*", source, re.M)
    }
    known = {
        "collections",
        "contextlib",
        "functools",
        "math",
        "numbers",
        "operator",
        "re",
        "typing",
        "weakref",
    }
    assert packages - known == {"torch"}


def test_readme_names_the_folders_in_their_order():
    text = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    places = [text.find(f"sos/{name}") for name in ORDER]
    assert min(places) >= 0 and not re.search(r"\bthin\b", text)
