"""What people ordinarily write, and what their tools leave behind, is no finding."""

import json
import re

import pytest
from test_notebook_check import BASELINE, read


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    ["plot_confusion(record)", "ConfusionMatrixDisplay(counts)", "px.line(x)", "alt.Chart(x)"],
)
def test_a_figure_may_be_drawn_by_any_library(repository, line):
    path, text = repository.root / BASELINE, read(repository)
    start, end = (text.index(f"# ## {name}") for name in ("6. Results", "7. Conclusion"))
    part = re.sub(r"figures\.\w+\(.*\)", "1", text[start:end])
    path.write_text(text[:start] + part + text[end:], encoding="utf-8")
    assert "section 6 draws no figure" in repository.lab("check").stdout
    part += f"# x\n\n# %%\n{line}\n\n# %% [markdown]\n"
    path.write_text(text[:start] + part + text[end:], encoding="utf-8")
    assert "draws no figure" not in repository.lab("check").stdout


@pytest.mark.slow
def test_prose_marked_md_is_prose_and_a_commented_magic_is_no_cell(repository):
    text = read(repository).replace("# %% [markdown]", "# %% [md]")
    (repository.root / BASELINE).write_text(text, encoding="utf-8")
    repository.lab("sync", check=True)
    assert repository.lab("check").returncode == 0
    text = text.replace("# %autoreload 2", "# %autoreload 2\n\n# %%\n# %%time\n1", 1)
    (repository.root / BASELINE).write_text(text, encoding="utf-8")
    repository.lab("sync", check=True)
    cells = json.loads((repository.root / BASELINE).with_suffix(".ipynb").read_text())["cells"]
    assert ["%%time\n", "1\n"] in [cell["source"][:2] for cell in cells]
    assert "differ" not in repository.lab("check").stdout


def test_what_editors_leave_beside_notebooks_is_no_notebook(repository):
    folder = repository.root / "notebooks"
    (folder / ".#01_baseline.py").symlink_to("ada@host.1:2")  # Emacs, an unsaved buffer
    (folder / ".~01_baseline.ipynb").write_bytes((folder / "01_baseline.ipynb").read_bytes())
    (folder / "._01_baseline.ipynb").write_bytes(b"\0\1\2")  # macOS on other disks
    before = sorted(folder.iterdir())
    assert repository.lab("check", "--strict").stdout == ""
    assert repository.lab("sync", check=True).stdout == ""
    assert sorted(folder.iterdir()) == before


def test_a_draft_that_git_does_not_know_stops_no_commit(repository):
    draft = repository.root / "notebooks" / "Untitled.ipynb"
    draft.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    assert repository.lab("check").returncode == 1
    hook = {"PRE_COMMIT": "1"}  # as pre-commit says to what it runs
    assert repository.lab("check", env=hook).returncode == 0
    repository.git("add", "notebooks")
    repository.lab("sync", check=True)
    repository.git("add", "notebooks")
    assert repository.lab("check", env=hook).returncode == 1
