"""Notebooks as other tools write them: Colab, Kaggle, Databricks, a colleague without set-up."""

import json

import pytest
from notebook_pairs import Pair, assert_history_is_clean, blob, commit

COLAB = {"executionInfo": {"user": {"displayName": "Jane"}, "timestamp": 17}, "outputId": "a",
         "colab": {"height": 34}, "id": "b", "cellView": "form"}  # fmt: skip


def foreign(pair, *metadata, name="notebooks/02_foreign"):
    """Write an `.ipynb` alone, whose keys are in nobody's order."""
    new = Pair(pair.project, name)
    cells = [
        {"source": [f"x = {number}"], "outputs": [], "metadata": given, "cell_type": "code",
         "id": f"cell{number}", "execution_count": None}
        for number, given in enumerate(metadata)
    ]  # fmt: skip
    nb = {"nbformat_minor": 5, "nbformat": 4, "metadata": {}, "cells": cells}
    new.nb.write_text(json.dumps(nb), encoding="utf-8")
    return new


@pytest.mark.parametrize(
    "metadata",
    [
        {"tags": ["hide"], "slideshow": {"slide_type": "slide"}},
        {"_uuid": "x", "_cell_guid": "y", "trusted": True},
        {"inputWidgets": {"b": 1, "a": {"d": 2, "c": 3}}},
        COLAB,
    ],
    ids=["jupyter", "kaggle", "nested", "colab"],
)
@pytest.mark.slow
def test_the_order_of_metadata_is_no_difference(pair, metadata):
    new = foreign(pair, metadata, {})
    new.sync()
    commit(pair.project, add=["notebooks"])
    assert_history_is_clean(pair.project)
    assert new.sync() == ""
    new.edit_py("x = 1", "x = 11")
    new.sync()
    commit(pair.project, add=["notebooks"])
    assert_history_is_clean(pair.project)


def test_tags_in_another_order_in_the_py_are_no_edit(pair):
    nb = pair.read()
    nb["cells"][1]["metadata"] = {"tags": ["hide"], "slideshow": {"slide_type": "slide"}}
    pair.write(nb)
    header = '# %% tags=["hide"] slideshow={"slide_type": "slide"}'
    pair.edit_py("# %%\nfirst = 1", f"{header}\nfirst = 1")  # as Jupyter wrote both
    assert pair.sync() == ""
    assert header in pair.py.read_text()


def test_what_colab_notes_of_a_run_is_in_no_commit(pair):
    new = foreign(pair, COLAB)
    new.sync()
    commit(pair.project, add=["notebooks"])
    committed = blob(pair.project, new.both[1]) + blob(pair.project, new.both[0])
    assert b"Jane" not in committed
    assert b"outputId" not in committed
    assert json.loads(blob(pair.project, new.both[1]))["cells"][0]["metadata"] == {
        "id": "b",
        "cellView": "form",
    }
    nb = new.read()
    nb["cells"][0]["metadata"]["executionInfo"] = {"timestamp": 18}
    new.write(nb)
    assert new.sync() == ""
    pair.project.git("add", "notebooks")
    assert pair.project.git("status", "--short").stdout == ""


def test_metadata_that_a_py_cannot_hold_outlive_an_edit_of_another_cell(pair):
    key = "application/vnd.databricks.v1+cell"
    new = foreign(pair, {key: {"title": "Load"}}, {})
    new.sync()
    new.edit_py("x = 1", "x = 11")
    new.sync()
    assert new.read()["cells"][0]["metadata"] == {key: {"title": "Load"}}
    assert new.says() == ["x = 0", "x = 11"]


def test_a_notebook_that_names_no_kernel_gets_pythons(pair):
    new = foreign(pair, {})
    new.sync()
    commit(pair.project, add=["notebooks"])
    assert "kernelspec" in json.loads(blob(pair.project, new.both[1]))["metadata"]


def test_jupyter_opens_the_py_after_a_sync_that_wrote_the_ipynb(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    assert pair.py.stat().st_mtime >= pair.nb.stat().st_mtime
    pair.edit_nb("second = 22", "second = 222")
    pair.sync()
    assert pair.py.stat().st_mtime >= pair.nb.stat().st_mtime


@pytest.mark.parametrize("half", [0, 1])
def test_a_half_that_was_renamed_alone_costs_no_output(pair, half):
    before = pair.execute()
    pair.project.git("add", "notebooks")
    new = Pair(pair.project, "notebooks/05_renamed")
    pair.project.git("mv", pair.both[half], new.both[half])
    done = new.sync(new.py.with_suffix(""), check=False)
    assert done.returncode == 1
    way = f'git mv "{pair.both[1 - half]}" "{new.both[1 - half]}"'
    assert way in done.stdout
    pair.project.run("sh", "-c", way, check=True)
    new.sync()
    commit(pair.project)
    assert new.outputs() == before
    assert_history_is_clean(pair.project)


@pytest.mark.slow
def test_a_conflict_with_a_notebook_that_was_committed_alone_names_where_its_edit_is(pair):
    project = pair.project
    project.git("switch", "-q", "-c", "theirs")
    pair.edit_nb("second = 2", "second = 'theirs'")
    pair.edit_nb("third = 3", "third = 'theirs'")
    project.git("commit", "-q", "-a", "--no-verify", "-m", "from a browser")
    project.git("switch", "-q", "main")
    pair.edit_py("second = 2", "second = 'ours'")
    pair.sync()
    commit(project, add=["notebooks"])
    done = project.git("merge", "theirs", check=False)
    assert "<<<<<<<" not in pair.py.read_text()
    way = f'git diff ":1:{pair.both[1]}" ":3:{pair.both[1]}"'
    assert way in done.stdout + done.stderr
    shown = project.run("sh", "-c", way, check=True).stdout
    assert "+second = 'theirs'" in shown
    assert "+third = 'theirs'" in shown


def test_a_reformatted_cell_with_a_shell_s_answer_keeps_its_output(pair):
    pair.make(["files = !ls\nx = [1,2]", "len?\ny = (1)"])
    pair.execute()
    pair.edit_py("x = [1,2]", "x = [1, 2]")
    pair.edit_py("y = (1)", "y = 1")
    pair.sync()
    assert all(pair.outputs().values())


def test_await_in_a_cell_is_no_fault(pair):
    new = Pair(pair.project, "notebooks/02_await").make(
        ["import asyncio", "await asyncio.sleep(0)"]
    )
    done = pair.project.python("-m", "ruff", "check", new.both[0])
    assert done.returncode == 0, done.stdout


def test_git_gives_no_notebook_the_kernel_of_another(pair):
    r = {"display_name": "R", "language": "R", "name": "ir"}
    out = {"name": "stdout", "output_type": "stream", "text": ["1\n"]}
    cell = {"cell_type": "code", "execution_count": 1, "id": "a1", "metadata": {}}
    cell |= {"outputs": [out], "source": ["x <- 1"]}
    metadata = {"kernelspec": r, "language_info": {"name": "R"}}
    other = Pair(pair.project, "notebooks/02_stats")
    other.write({"cells": [cell], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})
    pair.project.git("add", "notebooks")
    pair.project.git("commit", "-qm", "R", "--no-verify")
    pair.project.git("switch", "-qc", "other")
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    pair.project.git("commit", "-qam", "more", "--no-verify")
    pair.project.git("switch", "-q", "main")
    assert pair.read()["metadata"]["kernelspec"]["language"] == "python"
    assert pair.project.git("status", "--short").stdout == ""
    other.nb.unlink()
    pair.project.git("checkout", "notebooks/02_stats.ipynb")
    assert other.read()["metadata"]["kernelspec"] == r
    assert other.read()["cells"][0]["outputs"] == [out]
