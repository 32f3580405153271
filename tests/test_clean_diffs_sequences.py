"""Edits, syncs and what git puts back, in many orders: a sync that succeeds keeps every edit."""

import contextlib
import io
import itertools
import json
import random
import re
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.slow

STEM = "notebooks/01_pair"
CELLS = {"a": "1", "b": "2", "c": "3"}
GIT = {  # how people put a half, or both, back
    "restore .py": ["restore", f"{STEM}.py"],
    "restore .ipynb": ["restore", f"{STEM}.ipynb"],
    "restore": ["restore", "notebooks"],
    "unstage and restore": ["restore", "--staged", "--worktree", "notebooks"],
    "reset": ["reset", "-q", "--hard"],
    "stash": ["stash", "-q"],
    "stash .ipynb": ["stash", "push", "-q", "--", f"{STEM}.ipynb"],
    "pop": ["stash", "pop", "-q"],
    "switch": ["switch", "-q", "-c", "other"],
    "status": ["status"],
    "add": ["add", "-A"],
    "commit": ["commit", "-qam", "work"],
}
FIRST = [["py b 22"], ["ipynb b 22"], ["py b 22", "py c 33"], ["py b 22", "ipynb c 33"]]
THEN = [["sync"], ["sync", "status"], ["sync", "add"], ["sync", "commit"], []]
BACK = [[], ["stash", "pop"], *([name] for name in GIT if name not in ("pop", "add", "commit"))]
AGAIN = [[], ["py b 22"], ["ipynb b 22"], ["py c 44"], ["ipynb c 44"], ["py b 22", "ipynb c 44"],
         ["ipynb b 22", "py c 44"], ["py b 2", "ipynb c 44"], ["py c 44", "ipynb a 11"],
         ["py b 55"], ["ipynb b 22", "ipynb c 44"]]  # fmt: skip


def git(root, *arguments):
    """Run git; many of these orders it refuses, and so it would a person."""
    name = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    subprocess.run(["git", *name, *arguments], cwd=root, capture_output=True, check=False)


@pytest.fixture(scope="module")
def sync(pristine):
    """Give `lab sync` as a function of a folder, in this process; it returns the exit code."""
    pairs = pristine.module("lab.pairs")

    def run(root):
        with contextlib.chdir(root), contextlib.redirect_stdout(io.StringIO()):
            return pairs.sync(root, [])

    return run


@pytest.fixture(scope="module")
def start(sync, tmp_path_factory):
    """Make a repository with one pair of three cells, and two commits."""
    root = tmp_path_factory.mktemp("start")
    (root / "notebooks").mkdir()
    cells = "\n".join(f"# %%\n{name} = {value}\n" for name, value in CELLS.items())
    (root / f"{STEM}.py").write_text(cells)
    git(root, "init", "-q", "-b", "main")
    assert sync(root) == 0
    git(root, "add", "-A")
    git(root, "commit", "-qm", "start")
    return root


def values(root, half):
    """Return what a half says of each cell."""
    text = (root / f"{STEM}.{half}").read_text()
    if half == "ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return dict(re.findall(r"(?m)^(\w) = (\d+)", text))


def lost(root, steps, sync):
    """Take the steps; return the edits that a sync that succeeded took away."""
    edits = {"py": {}, "ipynb": {}}  # by hand, since a sync or since git wrote that half
    for step in steps:
        before = {half: values(root, half) for half in edits}
        if step == "sync":
            if sync(root) == 0:
                gone = [(half, name, value) for half, made in edits.items()
                        for name, value in made.items()
                        if values(root, half).get(name) != value]  # fmt: skip
                if gone:
                    return gone
                edits = {"py": {}, "ipynb": {}}
        elif step in GIT:
            git(root, *GIT[step])
            for half, made in edits.items():
                if values(root, half) != before[half]:
                    made.clear()
        else:
            half, name, value = step.split()
            path = root / f"{STEM}.{half}"
            text = path.read_text()
            changed = text.replace(f"{name} = {before[half][name]}", f"{name} = {value}")
            if changed != text:
                path.write_text(changed)
                edits[half][name] = value
    return []


def test_no_order_of_edits_syncs_and_git_loses_an_edit(sync, start, tmp_path):
    orders = [[*itertools.chain(*parts), "sync"]
              for parts in itertools.product(FIRST, THEN, BACK, [[], ["sync"]], AGAIN)]  # fmt: skip
    found = {}
    for number, steps in enumerate(random.Random(0).sample(orders, 150)):
        root = tmp_path / str(number)
        shutil.copytree(start, root)
        git(root, "update-index", "-q", "--refresh")
        if gone := lost(root, steps, sync):
            found[" · ".join(steps)] = gone
        shutil.rmtree(root)
    assert not found
