"""Pairs of notebooks for the tests of clean diffs: make them, run them, edit either half."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
from conftest import Project
from nbstripout import strip_output

ODD = Path(__file__).resolve().parents[2] / "shared" / "notebooks"  # where the workshop has it
HOOKS_HOME = Path(sys.prefix) / "pre-commit"  # built once, shared by all tests and runs
REFEREE = ["metadata.signature", "metadata.widgets"] + [
    f"cell.metadata.{key}"
    for key in ("collapsed", "ExecuteTime", "execution", "heading_collapsed", "hidden", "scrolled")
]


def percent(cells):
    """Write cells as percent text: strings are code, one-element lists are Markdown."""
    parts = []
    for cell in cells:
        if isinstance(cell, list):
            lines = "\n".join(f"# {line}".rstrip() for line in cell[0].splitlines())
            parts.append(f"# %% [markdown]\n{lines}\n")
        else:
            parts.append(f"# %%\n{cell}\n")
    return "\n".join(parts)


CELLS = [["# Title"], "first = 1", "second = 2", ["Some prose."], "third = 3", "print(first)"]


def lab(project, *arguments, cwd=None):
    """Run `lab` in this process, which spares a second of imports; returns what a process would."""
    cli = project.module("lab.cli")
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd or project.root),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = cli.main([str(argument) for argument in arguments])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


class Pair:
    """Both halves of one notebook in a project."""

    def __init__(self, project: Project, name: str = "notebooks/01_pair"):
        self.project, self.name = project, name
        self.py, self.nb = (project.root / f"{name}{end}" for end in (".py", ".ipynb"))
        self.both = [f"{name}.py", f"{name}.ipynb"]

    def make(self, cells=None):
        """Write both halves."""
        self.py.parent.mkdir(parents=True, exist_ok=True)
        self.py.write_text(percent(cells or CELLS), encoding="utf-8")
        self.sync(self.py)
        return self

    def sync(self, *arguments, check=True, cwd=None):
        """Run `lab sync`; return what it says, and with `check` it must succeed."""
        done = lab(self.project, "sync", *arguments, cwd=cwd)
        assert done.returncode == 0 or not check, done
        return done.stdout if check else done

    def read(self):
        """Read the notebook on disk."""
        return json.loads(self.nb.read_text(encoding="utf-8"))

    def write(self, nb):
        """Write the notebook as Jupyter does."""
        text = json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        self.nb.write_text(text, encoding="utf-8")

    def execute(self, run="run 1"):
        """Give every code cell an output that names the run and the cell, as a kernel would."""
        nb = self.read()
        code = [cell for cell in nb["cells"] if cell["cell_type"] == "code"]
        for number, cell in enumerate(code, 1):
            text = [f"{run}: {''.join(cell['source'])}\n"]
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": text}]
            cell["execution_count"] = number
            cell["metadata"]["execution"] = {"iopub.status.busy": run}
        nb["metadata"]["language_info"] = {"name": "python", "version": "3.11.7"}
        self.write(nb)
        return self.outputs()

    def clear(self, word):
        """Clear the outputs of the cells that hold a word, as Jupyter does."""
        nb = self.read()
        for cell in nb["cells"]:
            if word in "".join(cell["source"]):
                cell.update(outputs=[], execution_count=None)
        self.write(nb)

    def outputs(self):
        """Map each code cell's source to the text of its outputs."""
        return {
            "".join(cell["source"]): "".join("".join(o.get("text", "")) for o in cell["outputs"])
            for cell in self.read()["cells"]
            if cell["cell_type"] == "code"
        }

    def edit_py(self, old, new):
        """Edit the `.py` half."""
        text = self.py.read_text(encoding="utf-8")
        assert old in text
        self.py.write_text(text.replace(old, new), encoding="utf-8")

    def edit_nb(self, old, new):
        """Edit the `.ipynb` half."""
        nb = self.read()
        sources = ["".join(cell["source"]) for cell in nb["cells"]]
        assert any(old in source for source in sources)
        for cell, source in zip(nb["cells"], sources, strict=True):
            cell["source"] = source.replace(old, new).splitlines(keepends=True)
        self.write(nb)

    def says(self):
        """Return the sources of the pair on disk; both halves must say the same."""
        cells = jupytext.reads(self.py.read_text("utf-8"), "py:percent").cells
        here = [cell.source.strip("\n") for cell in cells]
        there = ["".join(cell["source"]).strip("\n") for cell in self.read()["cells"]]
        assert here == there
        return here


def blob(project, path, revision="HEAD"):
    """Return the bytes that git holds."""
    command = ["git", "cat-file", "blob", f"{revision}:{path}"]
    return subprocess.run(command, cwd=project.root, capture_output=True, check=True).stdout


def assert_history_is_clean(project, revision="HEAD"):
    """Hold a commit against nbstripout and jupytext themselves."""
    names = project.git("ls-tree", "-r", "-z", "--name-only", revision).stdout.split("\0")
    for name in [n for n in names if n.endswith(".ipynb")]:
        data = blob(project, name, revision).decode()
        nb = nbformat.from_dict(json.loads(data))
        stripped = strip_output(nbformat.from_dict(json.loads(data)), None, False, True, REFEREE)
        assert stripped == nb, name
        assert not any(cell.get("outputs") for cell in nb.cells), name
        assert data == json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        text = blob(project, name.replace(".ipynb", ".py"), revision).decode()
        here = [(c.cell_type, c.source) for c in jupytext.reads(text, "py:percent").cells]
        there = [(c.cell_type, "".join(c.source)) for c in nb.cells]
        assert here == there, name


def hooks_python() -> Path:
    """Return the interpreter of the hooks' environment: jupytext and nbstripout, no torch."""
    found = [path.parent for path in HOOKS_HOME.glob("repo*/py_env-*/bin/jupytext")]
    found = [path for path in found if (path / "nbstripout").exists() and (path / "ruff").exists()]
    return found[-1] / "python"


def build_hooks(project: Project):
    """Build the hooks' environment, if no earlier run did; pre-commit itself locks its folder."""
    project.git("init", "-q", "-b", "main")
    home = {"PRE_COMMIT_HOME": str(HOOKS_HOME)}
    project.python("-m", "pre_commit", "install-hooks", check=True, env=home)


def equip(project: Project) -> Project:
    """Set a project up as `lab setup` does, with the guard alone in place of pre-commit's hooks."""
    for path in (project.root / "notebooks").glob("01_*"):
        path.unlink()
    build_hooks(project)
    package = project.package
    code = f"from pathlib import Path; from {package}.lab import setup; setup._filter(Path.cwd())"
    project.python("-c", code, check=True)
    for name in ("pre-commit", "pre-merge-commit"):
        hook = project.root / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(
            f'#!/bin/sh\nPYTHONPATH=src exec "{hooks_python()}" -m {package}.lab.cli '
            "guard --staged --fix\n"
        )
        hook.chmod(0o755)
    Pair(project).make()
    project.git("add", "-A")
    project.git("commit", "-q", "-m", "start")
    return project


def equipped_copy(pristine: Project, folder: Path) -> Project:
    """Copy the default bake and equip it."""
    root = folder / pristine.root.name
    shutil.copytree(pristine.root, root, symlinks=True)
    return equip(Project(root))


def copy_of(project: Project, folder: Path) -> Project:
    """Copy a project with its repository."""
    root = folder / project.root.name
    shutil.copytree(project.root, root, symlinks=True)
    copied = Project(root)
    copied.git("update-index", "-q", "--refresh", check=False)
    return copied


def commit(project, message="work", times=2, add=None):
    """Commit as people do: on a refusal `git add` what was named, and commit again."""
    for _ in range(times):
        if add:
            project.git("add", *add)
        done = project.git("commit", "-q", "-m", message, check=False)
        if done.returncode == 0:
            return done
    raise AssertionError(done.stdout + done.stderr)


def set_times(pair, newer):
    """Give the halves modification times: `py` or `nb` newer, or `equal`."""
    for half, path in (("py", pair.py), ("nb", pair.nb)):
        when = 1_700_000_000 + (100 if half == newer else 0)
        os.utime(path, (when, when))
