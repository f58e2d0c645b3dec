"""Remove from executed notebooks what changes between runs.

python -m sos.run.notebooks FILE...
"""

import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = ("name", "file_extension", "mimetype")
CELL = ("tags", "jupyter")  # metadata that authors write; the rest is dropped
WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS = re.compile(r"\d+%\||\d(it|s)/(s|it)\b")  # a progress bar of tqdm


def normalised(path: Path | str) -> str:
    """Return the text of a notebook to commit, the same for all executions with equal results.

    Papermill's metadata and injected parameters, timestamps, widget state and progress bars are
    removed, and execution counts run from 1. Cell ids stay. A second application changes nothing
    more.
    """
    notebook = nbformat.read(path, as_version=4)
    language = notebook.metadata.get("language_info", {"name": "python"})
    notebook.metadata = NotebookNode(
        kernelspec=NotebookNode(KERNEL),
        language_info=NotebookNode({k: language[k] for k in LANGUAGE if k in language}),
    )
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", ())
    ]
    count = 0
    for cell in notebook.cells:
        cell.metadata = NotebookNode({k: cell.metadata[k] for k in CELL if cell.metadata.get(k)})
        if cell.cell_type != "code":
            continue
        if cell.execution_count is not None:  # cells that were never run keep no count
            count += 1
            cell.execution_count = count
        cell.outputs = _outputs(cell.outputs, cell.execution_count)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def _outputs(outputs: list[NotebookNode], count: int | None) -> list[NotebookNode]:
    """Remove widgets and progress bars, and join streams that were split only by timing."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr" and PROGRESS.search(output.text):
                continue
            last = kept[-1] if kept else None
            if last and last.output_type == "stream" and last.name == output.name:
                last.text += output.text
                continue
        if "data" in output:
            output.data.pop(WIDGET, None)
            if not output.data:
                continue
        if output.output_type == "execute_result":
            output.execution_count = count
        kept.append(output)
    return kept


def main(files: list[str]) -> None:
    """Remove from each file what changes between runs, and write it in place."""
    from sos.system import paths

    for file in files:
        paths.write_text(Path(file), normalised(file))


if __name__ == "__main__":
    main(sys.argv[1:])
