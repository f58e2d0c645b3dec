"""The committed notebooks are whole, clean and in one form; the normaliser brings them there."""

import ast
import json
import re

import nbformat
import pytest
from nbformat import v4

from sos.run import catalogue
from sos.run.notebooks import WIDGET, main, normalised
from sos.system import paths

FILES = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
LONGEST_CELL = 14  # lines; that of the method in notebook 01 may have 20
MOST_WORDS = 300  # of findings
LARGEST_FILE = 2_000_000  # bytes
OF_A_MACHINE = re.compile(
    r"(?<![\w./])/(?:tmp|home|root|work|Users|var|opt|mnt)/|\bat 0x[0-9a-fA-F]{6,}|ipykernel_\d+"
)


@pytest.fixture(params=FILES, ids=[file.stem for file in FILES])
def file(request):
    return request.param


@pytest.fixture
def notebook(file):
    return nbformat.read(file, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(output):
    """What a reader sees of an output as text."""
    if output.output_type == "stream":
        return [output.text]
    return [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]


def literals(source: str) -> dict:
    """{name: value} of plain assignments; anything else raises ValueError."""
    values = {}
    for line in ast.parse(source).body:
        if not isinstance(line, ast.Assign) or not isinstance(line.targets[0], ast.Name):
            raise ValueError(f"{ast.unparse(line)} is no plain assignment")
        values[line.targets[0].id] = ast.literal_eval(line.value)
    return values


def test_runner_lists_every_notebook():
    assert [file.stem for file in FILES] == [notebook.name for notebook in catalogue.NOTEBOOKS]


def test_valid(notebook):
    nbformat.validate(notebook)
    ids = [cell.get("id") for cell in notebook.cells]
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert all(ids) and len(set(ids)) == len(ids)


def test_every_cell_was_executed_in_order(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_errors(notebook):
    kinds = {output.output_type for cell in code_cells(notebook) for output in cell.outputs}
    assert "error" not in kinds


def test_outputs_name_no_machine(notebook):
    found = [
        text
        for cell in code_cells(notebook)
        for output in cell.outputs
        for text in texts(output)
        if OF_A_MACHINE.search(text)
    ]
    assert not found


def test_no_widget_state(notebook):
    assert "widgets" not in notebook.metadata
    data = [output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs]
    assert not any(WIDGET in bundle for bundle in data)


def test_size(file):
    assert file.stat().st_size < LARGEST_FILE


def test_one_cell_of_parameters(notebook):
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    assert len(tagged) == 1
    assert literals(tagged[0].source) == {"profile": "demo", "weights": "released", "images": None}


def test_kernel(notebook):
    assert notebook.metadata.kernelspec.name == "python3"


def test_opens_with_its_card(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert "Paper section" in first.source and "Run time" in first.source


def test_code_cells_are_short(notebook):
    for cell in code_cells(notebook):
        most = 20 if "method" in cell.metadata.get("tags", ()) else LONGEST_CELL
        assert len(cell.source.splitlines()) <= most, cell.source
        assert all(len(line) <= 100 for line in cell.source.splitlines()), cell.source


def test_findings_are_short_and_say_where_they_are_measured(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    findings = text.partition("## Findings")[2].partition("\n## ")[0]
    items = [line for line in findings.splitlines() if line.startswith(("- ", "* "))]
    if "start_here" in text or not items:  # notebook 00 lists those of all others in a table
        assert "## Findings" in text
        return
    assert len(" ".join(items).split()) <= MOST_WORDS
    unlinked = [item for item in items if "](" not in item]
    assert not unlinked


def test_every_figure_has_a_caption(notebook):
    """The text before or after the cell that saves a figure has a sentence with a bold name."""
    cells = notebook.cells
    for k, cell in enumerate(cells):
        if cell.cell_type == "code" and re.search(r"^save\(", cell.source, re.MULTILINE):
            before = [c for c in cells[:k] if c.cell_type == "markdown"][-1].source
            after = [c for c in cells[k + 1 :] if c.cell_type == "markdown"][0].source
            assert "**" in before + after, cell.source


def test_committed_in_normal_form(file):
    assert normalised(file) == file.read_text(encoding="utf-8")


def as_executed(seconds="00", model="4f1c"):
    """A notebook as papermill leaves it, at some time of day and with some widget id."""
    stamp = {"start_time": f"2026-01-01T00:00:{seconds}", "status": "completed"}
    parameters = v4.new_code_cell("profile = 'demo'", id="p", execution_count=3, metadata={
        "tags": ["parameters"], "papermill": stamp, "collapsed": False})  # fmt: skip
    injected = v4.new_code_cell("profile = 'smoke'", id=f"random-{model}", execution_count=4,
        metadata={"tags": ["injected-parameters"], "papermill": stamp})  # fmt: skip
    outputs = [
        v4.new_output(
            "stream", name="stderr", text=f"\r 50%|##   | 1/2 [00:{seconds}<00:01, 2it/s]"
        ),
        v4.new_output("stream", name="stdout", text="one\n"),
        v4.new_output("stream", name="stdout", text="two\n"),
        v4.new_output("display_data", {WIDGET: {"model_id": model}}),
        v4.new_output("display_data", {WIDGET: {"model_id": model}, "image/png": "AAAA"}),
        v4.new_output("execute_result", {"text/plain": "7"}, execution_count=5),
    ]
    shows = v4.new_code_cell("show()", id="s", execution_count=5, outputs=outputs, metadata={
        "tags": [], "papermill": stamp, "execution": {"iopub.execute_input": seconds}})  # fmt: skip
    metadata = {
        "kernelspec": {"display_name": f"env {model}", "language": "python", "name": model},
        "language_info": {"name": "python", "version": "3.11.7", "mimetype": "text/x-python",
                          "file_extension": ".py"},
        "papermill": {"duration": seconds, "output_path": f"/tmp/{model}"},
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {model: {}}}},
    }  # fmt: skip
    card = v4.new_markdown_cell("# Card", id="c", metadata={"papermill": stamp})
    return v4.new_notebook(cells=[card, parameters, injected, shows], metadata=metadata)


@pytest.fixture
def written(tmp_path):
    def write(notebook, name="toy.ipynb"):
        nbformat.write(notebook, tmp_path / name)
        return tmp_path / name

    return write


def test_normaliser_keeps_what_readers_see(written):
    text = normalised(written(as_executed()))
    notebook = json.loads(text)
    card, parameters, shows = notebook["cells"]
    assert [card["id"], parameters["id"], shows["id"]] == ["c", "p", "s"]
    assert [parameters["execution_count"], shows["execution_count"]] == [1, 2]
    assert parameters["metadata"] == {"tags": ["parameters"]} and shows["metadata"] == {}
    stream, picture, result = shows["outputs"]
    assert stream["text"] == ["one\n", "two\n"]
    assert picture["data"] == {"image/png": "AAAA"}
    assert result["data"] == {"text/plain": ["7"]} and result["execution_count"] == 2
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert text.endswith("}\n")


def test_normaliser_forgets_the_run(written):
    one = normalised(written(as_executed(), "one.ipynb"))
    two = normalised(written(as_executed(seconds="59", model="77aa"), "two.ipynb"))
    assert one == two


def test_normaliser_is_idempotent(written, tmp_path):
    file = written(as_executed())
    main([str(file)])
    once = file.read_bytes()
    main([str(file)])
    assert file.read_bytes() == once
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


def test_normaliser_leaves_gaps_visible(written):
    notebook = as_executed()
    notebook.cells[1].execution_count = None
    cells = json.loads(normalised(written(notebook)))["cells"]
    assert [cell["execution_count"] for cell in cells[1:]] == [None, 1]


def test_normaliser_keeps_warnings(written):
    notebook = as_executed()
    notebook.cells[3].outputs = [v4.new_output("stream", name="stderr", text="UserWarning: 3%\n")]
    assert "UserWarning" in normalised(written(notebook))


@pytest.mark.parametrize("text", ["/tmp/x", "in /root/a", "<F at 0x7f001122>", "'/home/me'"])
def test_pattern_finds_machines(text):
    assert OF_A_MACHINE.search(text)


@pytest.mark.parametrize("text", ["figures/demo", "nats/work/s", "../root/a", "https://a.b/tmp/"])
def test_pattern_spares_the_rest(text):
    assert not OF_A_MACHINE.search(text)


@pytest.mark.parametrize("source", ["import sos", "a = f(1)", "a += 1", "a, b = 1, 2", "a = b = c"])
def test_only_plain_literals_are_parameters(source):
    with pytest.raises(ValueError):
        literals(source)
