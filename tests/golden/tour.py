"""The tour with what it shows: ``python -m tests.golden.tour`` runs ``docs/tour.ipynb`` and keeps figures and tables.

So the notebook shows something where nobody runs it: on a repository's page and on the site. What commands print while
they work is left out, since it holds times, and so is what a cell shows whose tag is ``not-kept``.
"""

import argparse
import base64
import hashlib
import io
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from core.checkpoint import write_text
from core.provenance import ROOT
from evaluation.latency import device_name

NOTEBOOK = ROOT / "docs" / "tour.ipynb"
NOT_KEPT = "not-kept"
"""The tag of cells whose output changes with every committed row."""
SOURCES = "kept_outputs_of_sources_sha256"
"""In the notebook's metadata: of which cells the outputs are."""
_MACHINE = re.compile(r"(?<=one thread of: ).*(?=\.)")


def run_tour(folder: Path) -> Any:
    """The notebook with all that its cells give.

    Args:
        folder: where it runs, and leaves what it makes.

    Raises:
        CellExecutionError: a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, 4)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute(env=environment)
    return notebook


def sources_sha256(notebook: Any) -> str:
    """A hash of the code in a notebook, as nbformat has it or as plain JSON."""
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def keep(notebook: Any) -> None:
    """Leave the outputs that are committed, small, and say which code and machine they are of."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.metadata.pop("execution", None)
            is_kept = NOT_KEPT not in cell.metadata.get("tags", [])
            cell.outputs = [_small(output) for output in cell.outputs if is_kept and _is_shown(output)]
    notebook.metadata[SOURCES] = sources_sha256(notebook)
    notebook.metadata.language_info = {"name": "python"}
    first = notebook.cells[0]
    first.source, found = _MACHINE.subn(device_name(torch.device("cpu")), first.source)
    assert found == 1, "the first cell says which machine the outputs are of"


def _is_shown(output: Any) -> bool:
    if output.output_type == "stream":
        return bool(output.name == "stdout")
    return output.output_type == "execute_result" or "image/png" in output.data


def _small(output: Any) -> Any:
    """An output with its image as JPEG: a third of a photograph's PNG, or less."""
    if "execution_count" in output:
        output.execution_count = None
    if "image/png" in output.get("data", {}):
        stream = io.BytesIO()
        image = Image.open(io.BytesIO(base64.b64decode(output.data.pop("image/png"))))
        image.convert("RGB").save(stream, "JPEG", quality=85, optimize=True)
        output.data["image/jpeg"] = base64.b64encode(stream.getvalue()).decode()
    return output


def main() -> None:
    """Write the notebook anew."""
    import nbformat

    argparse.ArgumentParser(prog="python -m tests.golden.tour", description=__doc__).parse_args()
    with TemporaryDirectory() as folder:
        notebook = run_tour(Path(folder))
    keep(notebook)
    write_text(NOTEBOOK, nbformat.writes(notebook) + "\n")


if __name__ == "__main__":
    main()
