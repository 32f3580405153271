"""Execute a notebook in a fresh kernel of this interpreter, or reuse the last outputs."""

import ast
import contextlib
import hashlib
import json
import re
import time
from pathlib import Path

from . import percent
from .project import LabError, package_of, project_env

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class CellError(Exception):
    """A cell failed: the message that shows it, and the notebook as far as it was executed."""


def set_parameters(notebook: dict, parameters: dict[str, str]) -> None:
    """Add a cell to `notebook` that sets `parameters`; LabError if it has no parameters cell."""
    cells = notebook["cells"]
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", [])]
    if not parameters:
        return
    if not tagged:
        raise LabError("the notebook has no cell tagged `parameters`; tag the one that sets them")
    try:
        tree = ast.parse(re.sub(r"(?m)^\s*[%!].*", "", "".join(cells[tagged[0]]["source"])))
    except SyntaxError as error:
        raise LabError(f"the cell tagged `parameters` is not plain Python: {error}") from None
    known = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and type(n.ctx) is ast.Store]
    lines = []
    for name, value in parameters.items():
        if name not in known:
            raise LabError(f"the notebook has no parameter {name!r}; it has {', '.join(known)}")
        with contextlib.suppress(ValueError, SyntaxError):  # a plain word
            value = ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
        lines.append(f"{name} = {value!r}  # set by lab report")
    cell = {"cell_type": "code", "id": "set-by-lab", "metadata": {"tags": ["injected-parameters"]}}
    cell |= {"source": "\n".join(lines), "outputs": [], "execution_count": None}
    cells.insert(tagged[0] + 1, cell)
    if "run" in parameters:
        _show_instead_of_training(cells)


def _show_instead_of_training(cells: list[dict]) -> None:
    """Put the reported run where the notebook trains one."""
    training = re.compile(r"(?m)^%run \S*train\.py.*$")
    found = [cell for cell in cells if training.search("".join(cell["source"]))]
    if len(found) != 1:
        many = f"the notebook has {len(found)} cells with `%run ../train.py ...`"
        raise LabError(f"{many}; --run can replace only one")
    shown = "record = find(ROOT, run)  # set by lab report, instead of training"
    found[0]["source"] = training.sub(shown, "".join(found[0]["source"]))


def _code(notebook: dict) -> list[dict]:
    """List the cells of code."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def code_digest(root: Path, notebook: dict) -> str:
    """Hash what outputs depend on: the code of `notebook`, and what it can import under `root`."""
    parts = ["".join(cell["source"]).encode() for cell in _code(notebook)]
    bench = root / "src" / package_of(root) / "lab"  # changes no number
    found = sorted({*(root / "src").rglob("*.*")} - {*bench.rglob("*.*")})
    files = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    parts += [path.read_bytes() for path in (root / "train.py", *files)]
    found = sorted((root / "notebooks").rglob("*.py"))
    helpers = (path.read_bytes() for path in found if path.is_file())  # locks of Emacs dangle
    parts.append(b"\0".join(code for code in helpers if b"# %%" not in code))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def take_outputs(notebook: dict, last: dict) -> None:
    """Put into `notebook` the outputs that the `last` report has under the same code."""
    for cell, executed in zip(_code(notebook), _code(last), strict=True):
        cell |= {key: executed[key] for key in ("outputs", "execution_count")}
    notebook["metadata"]["lab"] = last["metadata"]["lab"] | notebook["metadata"]["lab"]


def execute(root: Path, stem: Path, notebook: dict, code: str) -> None:
    """Execute `notebook` in a fresh kernel, in the folder of `stem`; CellError where a cell fails.

    The code is of the project at `root`; its digest, `code`, goes into the metadata.
    """
    from concurrent.futures import ThreadPoolExecutor

    import nbclient
    from jupyter_client import AsyncKernelManager, kernelspec
    from nbformat.v4 import new_code_cell
    from tqdm import tqdm

    probe = new_code_cell("print(getattr(globals().get('record'), 'path', ''))")
    node = percent.node({**notebook, "cells": [*notebook["cells"], probe]})

    def after(cell, **_):
        """Stop at any error in the output: `%run` hides those of the script from the reply."""
        bar.update()
        failed = any(part["output_type"] == "error" for part in cell["outputs"])
        if failed and "raises-exception" not in cell["metadata"].get("tags", []):
            raise CellError(_say(stem, node, cell), _plain(node))

    count = len(_code(node))
    with tqdm(total=count, unit="cell", desc=stem.name, leave=False, disable=None) as bar:
        where = {"metadata": {"path": str(stem.parent)}}
        client = nbclient.NotebookClient(node, resources=where, on_cell_executed=after)
        client.shutdown_kernel = "immediate"
        client.extra_arguments = ["--log-level=40"]  # errors alone: a bar is being drawn
        # not a user's own kernel of the same name
        specs = kernelspec.KernelSpecManager(kernel_dirs=[])
        client.km = AsyncKernelManager(kernel_spec_manager=specs, kernel_name="python3")
        with ThreadPoolExecutor(1) as pool:  # so that an interrupt comes to us
            future = pool.submit(client.execute, env=project_env(root))
            try:
                while not future.done():  # Windows: waiting for its result is deaf to Ctrl-C
                    time.sleep(0.05)
                future.result()
            except nbclient.exceptions.DeadKernelError:
                raise CellError(f"{stem.name}: the kernel died (memory?)", _plain(node)) from None
            except (KeyboardInterrupt, SystemExit):
                if kernel := getattr(client.km.provisioner, "process", None):
                    kernel.kill()
                raise
    executed = _plain(node)
    printed = "".join(part.get("text", "") for part in executed["cells"].pop()["outputs"])
    notebook["cells"] = executed["cells"]
    notebook["metadata"]["lab"] |= {"code": code, "run": printed.strip()}


def _plain(node) -> dict:
    """Turn nbformat's objects into dicts, without execution times."""
    notebook = json.loads(json.dumps(node))
    for cell in notebook["cells"]:
        cell["metadata"].pop("execution", None)
    return notebook


def _say(stem: Path, node, cell) -> str:
    """Show a failed cell with its error."""
    before = node["cells"][: node["cells"].index(cell)]
    prose = "\n".join(one["source"] for one in before if one["cell_type"] == "markdown")
    section = re.findall(r"(?m)^## (.*)", prose)[-1:] or ["the top"]
    errors = [part for part in cell["outputs"] if part["output_type"] == "error"]
    printed = "".join(part["text"] for part in cell["outputs"] if part["output_type"] == "stream")
    said = [line.rsplit("\r", 1)[-1] for line in printed.splitlines()[-10:]]  # train.py's own words
    trace = ANSI.sub("", "\n".join([*said, *errors[0]["traceback"]]))
    code = "\n".join("    " + line for line in cell["source"].splitlines())
    return f"{stem.name}: a cell of section {section[0]!r} failed:\n{code}\n{trace}"
