"""The notebooks: paired texts in step, nothing stored, and every one runs in under a minute."""

import os
import pathlib
import tempfile

import jupytext
import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
TEXTS = sorted(FOLDER.glob("*.py"))
PAIRS = pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
CPU_SECONDS = 60  # of a kernel: at most a minute where nothing else runs


def test_there_are_six_and_each_has_both_forms():
    assert len(TEXTS) == 6
    assert [path.stem for path in TEXTS] == [path.stem for path in sorted(FOLDER.glob("*.ipynb"))]


@PAIRS
def test_both_forms_say_the_same(text):
    notebook = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
    paired = jupytext.read(text)
    assert _cells(notebook) == _cells(paired), f"run: jupytext --sync {text.name}"
    assert notebook.metadata["kernelspec"] == paired.metadata["kernelspec"]
    # The other way round too: nothing in the notebook is lost in its text.
    written = jupytext.writes(notebook, fmt="py:percent")
    assert _cells(jupytext.reads(written, fmt="py:percent")) == _cells(notebook)


@PAIRS
def test_nothing_is_stored_and_the_first_cell_installs_on_colab(text):
    notebook = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        assert not cell.outputs and cell.execution_count is None
    assert "widgets" not in notebook.metadata
    first = notebook.cells[0]
    assert first.cell_type == "code" and "%pip install -q ./clone" in first.source
    assert '"google.colab" in sys.modules and find_spec("relu_dynamics") is None' in first.source
    assert notebook.cells[1].source.startswith("# ")  # then its title


def _executed(text: pathlib.Path, folder: pathlib.Path):
    """The notebook with its outputs, and the processor time of its kernel printed at the end.

    Raises with a cell's traceback. A kernel and its client have been seen to wait for each other
    for ever, with a message lost between them: sockets in a folder of their own rather than ports
    that another kernel may get too, and a second try for a cell that says nothing for minutes.
    """
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError

    for last in (False, True):
        notebook = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
        notebook.cells.append(nbformat.v4.new_code_cell("import time\nprint(time.process_time())"))
        with tempfile.TemporaryDirectory(prefix="kernel_") as sockets:
            manager = AsyncKernelManager(kernel_name="python3", transport="ipc")
            manager.ip = os.path.join(sockets, "k")
            resources = {"metadata": {"path": folder}}
            client = NotebookClient(notebook, km=manager, timeout=150, resources=resources)
            try:
                client.execute()
                return notebook
            except CellTimeoutError:
                if last:
                    raise
    return None


@pytest.mark.slow
@PAIRS
def test_a_notebook_runs_in_under_a_minute(text, tmp_path, monkeypatch):
    # The suite's own compiler flags are not a reader's; the tree under test comes first.
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    paths = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    notebook = _executed(text, tmp_path)
    first, last = notebook.cells[0], notebook.cells[-1]
    assert not first.outputs  # silent where the package is there
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            # Warnings and logs are not for a reader.
            assert output.get("name") != "stderr", output.text
    kinds = [
        kind for c in notebook.cells for o in c.get("outputs", []) for kind in o.get("data", ())
    ]
    assert "image/png" in kinds
    seconds = float(last.outputs[0].text)
    assert seconds < CPU_SECONDS, f"{text.name} took {seconds:.0f} s of CPU"


def _cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]
