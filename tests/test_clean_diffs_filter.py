"""git's filter for notebooks: what is committed is clean, and outputs stay with their cells."""

import json
import os
import tomllib

import pytest
from notebook_pairs import ODD, Pair, assert_history_is_clean, blob, commit
from test_nbfilter import nbfilter


def test_edit_run_and_commit_leaves_outputs_on_disk_and_none_in_history(pair):
    pair.edit_nb("second = 2", "second = 22")
    outputs = pair.execute()
    commit(pair.project, add=["notebooks"])
    assert pair.outputs() == outputs
    assert_history_is_clean(pair.project)
    assert pair.project.git("status", "--short").stdout == ""
    assert "second = 22" in pair.says()


def test_outputs_alone_are_no_change(pair):
    outputs = pair.execute()
    pair.project.git("add", "-A")
    assert pair.project.git("status", "--short").stdout == ""
    assert pair.project.git("diff", "HEAD").stdout == ""
    assert pair.outputs() == outputs


def change(pair, name="other.txt"):
    """Commit something that has nothing to do with notebooks."""
    (pair.project.root / name).write_text("x\n")
    pair.project.git("add", name)
    pair.project.git("commit", "-q", "-m", name)


def branch(pair):
    """Have a branch on which the notebook is another; come back."""
    pair.project.git("switch", "-q", "-c", "branch")
    pair.edit_py("first = 1", "first = 11")
    commit_pair(pair)
    pair.project.git("switch", "-q", "main")


def commit_pair(pair):
    pair.sync()
    commit(pair.project, add=["notebooks"])


def amend(pair):
    pair.edit_py("second = 2", "second = 22")
    commit_pair(pair)
    pair.project.git("commit", "-q", "--amend", "-m", "amended")


def switch_and_back(pair):
    branch(pair)
    pair.project.git("switch", "-q", "branch")
    pair.project.git("switch", "-q", "main")


def merge(pair):
    branch(pair)
    change(pair)
    pair.project.git("merge", "-q", "--no-edit", "branch")


def merge_of_disjoint_edits(pair):
    branch(pair)
    pair.edit_py("third = 3", "third = 33")
    commit_pair(pair)
    pair.project.git("merge", "-q", "--no-edit", "branch")
    assert {"first = 11", "third = 33"} <= set(pair.says())


def rebase(pair):
    branch(pair)
    change(pair)
    pair.project.git("rebase", "-q", "branch")


def stash_and_pop(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    pair.project.git("stash")
    assert "second = 2" in pair.says()
    pair.project.git("stash", "pop")
    assert "second = 22" in pair.says()


def pathspec_commit(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    change(pair)
    pair.project.git("commit", "-q", "-m", "x", "--", *pair.both)
    assert pair.project.git("status", "--short").stdout == ""


def commit_all_flag(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    pair.project.git("commit", "-q", "-a", "-m", "x")


def checkout_of_an_old_commit_and_back(pair):
    branch(pair)
    pair.project.git("checkout", "-q", "branch~0")
    pair.project.git("checkout", "-q", "main")


def rename_and_switch(pair):
    pair.project.git("switch", "-q", "-c", "renamed")
    for half in pair.both:
        pair.project.git("mv", half, half.replace("01_pair", "02 改名"))
    pair.project.git("commit", "-q", "-m", "rename")
    pair.project.git("switch", "-q", "main")
    moved = Pair(pair.project, "notebooks/02 改名")
    pair.project.git("switch", "-q", "renamed")
    assert any(moved.outputs().values())
    pair.project.git("switch", "-q", "main")


@pytest.mark.parametrize(
    "happens",
    [amend, switch_and_back, merge, merge_of_disjoint_edits, rebase, stash_and_pop,
     pathspec_commit, commit_all_flag, checkout_of_an_old_commit_and_back, rename_and_switch],
)  # fmt: skip
def test_outputs_survive(pair, happens):
    before = pair.execute()
    pair.project.git("add", "-A")
    happens(pair)
    after = pair.outputs()
    unchanged = before.keys() & after.keys()
    assert len(unchanged) >= 2
    assert {source: after[source] for source in unchanged} == {
        source: before[source] for source in unchanged
    }
    assert all(not after[source] for source in after.keys() - before.keys())
    assert_history_is_clean(pair.project)


def test_each_branch_gets_back_the_outputs_that_were_made_on_it(pair):
    on_main = pair.execute("on main")
    pair.project.git("add", "-A")
    pair.project.git("switch", "-q", "-c", "branch")
    pair.edit_py("first = 1", "first = 11")
    pair.sync()
    on_branch = pair.execute("on branch")
    commit(pair.project, add=["notebooks"])
    pair.project.git("switch", "-q", "main")
    assert pair.outputs() == on_main
    pair.project.git("switch", "-q", "branch")
    assert pair.outputs() == on_branch


def test_a_colleagues_committed_outputs_do_not_replace_those_that_were_made_here(pair, tmp_path):
    clone = tmp_path / "clone"
    pair.project.git("clone", "-q", str(pair.project.root), str(clone))
    theirs = Pair(type(pair.project)(clone))
    theirs.execute("theirs")
    theirs.project.git("commit", "-q", "-a", "-m", "dirty")
    mine = pair.execute("mine")
    pair.project.git("add", "-A")
    pair.project.git("pull", "-q", "--ff-only", str(clone), "HEAD")
    assert pair.outputs() == mine
    pair.project.git("commit", "-q", "-a", "-m", "mend")
    assert pair.outputs() == mine
    assert_history_is_clean(pair.project)


def test_of_equal_cells_without_ids_a_new_one_gets_no_output(tmp_path):
    def notebook(count, output):
        outputs = [{"output_type": "stream", "name": "stdout", "text": output}] if output else []
        cell = {"cell_type": "code", "metadata": {}, "source": "plot()", "outputs": outputs}
        nb = {"cells": [cell] * count, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
        return json.dumps(nb).encode()

    data = notebook(1, "of the old one")
    nbfilter.remember(str(tmp_path), "x.ipynb", data, nbfilter.clean(data))
    back = json.loads(nbfilter.smudge(str(tmp_path), "x.ipynb", nbfilter.clean(notebook(2, ""))))
    assert [cell["outputs"] for cell in back["cells"]] == [[], []]


@pytest.mark.slow
def test_twenty_megabytes_of_output_stay_and_the_commit_is_small(pair):
    pair.edit_nb("second = 2", "second = 22")
    pair.execute()
    nb = pair.read()
    nb["cells"][1]["outputs"][0]["text"] = ["x" * 20_000_000]
    pair.write(nb)
    before = pair.nb.read_bytes()
    commit(pair.project, add=["notebooks"])
    assert pair.nb.read_bytes() == before
    assert len(blob(pair.project, pair.both[1])) < 10_000
    pair.project.git("switch", "-q", "--detach", "HEAD~1")
    pair.project.git("switch", "-q", "main")
    assert len(pair.outputs()["first = 1"]) == 20_000_000


def test_the_memory_of_outputs_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(nbfilter, "MEMORY_BYTES", 5_000)
    other = "{}-1.json".format(nbfilter._name("y.ipynb"))  # that of another notebook stays
    (tmp_path / other).write_text("x" * 4_000)
    os.utime(tmp_path / other, (0, 0))
    for number in range(20):
        out = [{"output_type": "stream", "name": "stdout", "text": "x" * 1000}]
        cell = {"cell_type": "code", "metadata": {}, "source": f"a = {number}", "outputs": out}
        nb = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        data = json.dumps(nb).encode()
        nbfilter.remember(str(tmp_path), "x.ipynb", data, nbfilter.clean(data))
    assert 4 <= len(list(tmp_path.iterdir())) <= 7
    assert (tmp_path / other).exists()
    monkeypatch.setattr(nbfilter, "MEMORY_BYTES", 0)
    nbfilter.remember(str(tmp_path), "x.ipynb", data, nbfilter.clean(data))
    assert len(list(tmp_path.iterdir())) == 4, "the newest three, and the other's"


def test_a_filter_whose_interpreter_is_gone_stops_no_git_command_and_loses_nothing(pair):
    outputs = pair.execute()
    pair.project.git("add", "-A")
    branch(pair)
    for command in ("clean", "smudge"):
        key = f"filter.notebook.{command}"
        pair.project.git("config", key, "/nonexistent/python -I -S nbfilter.py %f")
    for name in ("branch", "main"):  # git may refuse, for it sees outputs as edits; never deletes
        pair.project.git("switch", "-q", name, check=False)
        assert pair.nb.exists()
    pair.project.git("switch", "-q", "-f", "main")
    pair.execute("without a filter")
    refused = pair.project.git("commit", "-q", "-a", "-m", "x", check=False)
    assert refused.returncode == 1
    assert "git add --renormalize" in refused.stdout + refused.stderr
    pair.project.git("reset", "-q", "--hard")
    code = f"from pathlib import Path; from {pair.project.package}.lab import setup"
    pair.project.python("-c", f"{code}; setup._filter(Path.cwd())", check=True)
    pair.project.git("switch", "-q", "branch")
    pair.project.git("switch", "-q", "main")
    assert pair.outputs() == outputs


def test_the_recorded_interpreter_gone_another_one_does_it(pair):
    for command in ("clean", "smudge"):
        value = pair.project.git("config", f"filter.notebook.{command}").stdout.strip()
        assert value.startswith("p=/")
        value = "p=/gone/python;" + value.split(";", 1)[1]
        pair.project.git("config", f"filter.notebook.{command}", value)
    outputs = pair.execute()
    pair.project.git("add", "-A")
    assert pair.project.git("status", "--short").stdout == ""
    switch_and_back(pair)
    assert pair.outputs() == outputs


def test_a_filter_that_is_killed_half_way_leaves_the_file_and_its_memory_whole(pair):
    outputs = pair.execute()
    pair.project.git("add", "-A")
    script = pair.project.root / ".git" / "lab" / "nbfilter.py"
    whole = script.read_text()
    for deadly, torn in (
        ("os.replace(scratch, target)", "os.truncate(scratch, 9); "),
        ("sys.stdout.buffer.write(result)", ""),
    ):
        assert deadly in whole
        script.write_text(whole.replace(deadly, f"{torn}os.kill(os.getpid(), 9)"))
        nb = pair.read()
        nb["cells"][1]["outputs"][0]["text"] = ["half way"]
        pair.write(nb)
        pair.project.git("add", "-A")
        assert pair.outputs()["first = 1"] == "half way"
        script.write_text(whole)
        pair.project.git("add", "--renormalize", "-A")
        assert pair.project.git("status", "--short").stdout == ""
    switch_and_back(pair)
    assert pair.outputs() == {**outputs, "first = 1": "half way"}


def test_a_full_disk_stops_no_commit_and_the_outputs_stay_in_the_file(pair):
    pytest.importorskip("resource")
    script = pair.project.root / ".git" / "lab" / "nbfilter.py"
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\nif __name__ =="
    script.write_text(script.read_text().replace("if __name__ ==", full))
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    outputs = pair.execute()
    commit(pair.project, add=["notebooks"])
    assert pair.outputs() == outputs
    assert_history_is_clean(pair.project)


def test_tags_attachments_ids_and_widgets(pair):
    nb = pair.read()
    for cell, tag in zip(nb["cells"][1:3], ("keep_output", "init_cell"), strict=True):
        cell["metadata"] = {"tags": ["keep_output"]} if tag == "keep_output" else {tag: True}
    nb["cells"][0]["attachments"] = {"a.png": {"image/png": "iVBORw0KGgo="}}
    nb["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {"a": 1}}}
    pair.write(nb)
    pair.execute()
    outputs, widgets = pair.outputs(), pair.read()["metadata"]["widgets"]
    pair.sync()
    commit(pair.project, add=["notebooks"])
    held = json.loads(blob(pair.project, pair.both[1]))
    assert held["cells"][1]["metadata"] == {"tags": ["keep_output"]}
    assert held["cells"][2]["metadata"] == {"init_cell": True}
    assert held["cells"][0]["attachments"] == nb["cells"][0]["attachments"]
    assert [c["id"] for c in held["cells"]] == [c["id"] for c in nb["cells"]]
    assert "widgets" not in held["metadata"]
    assert_history_is_clean(pair.project)
    switch_and_back(pair)
    assert pair.outputs() == outputs
    assert pair.read()["metadata"]["widgets"] == widgets


def test_a_colleagues_kernel_python_and_jupytext_make_no_difference(pair):
    nb = pair.read()
    nb["metadata"] = {
        "kernelspec": {"display_name": "ada-env", "language": "python", "name": "ada"},
        "language_info": {"name": "python", "version": "3.13.1", "pygments_lexer": "ipython3"},
        "jupytext": {"formats": "ipynb,py:percent", "cell_metadata_filter": "tags,-all"},
    }
    pair.write(nb)
    pair.project.git("add", "-A")
    assert pair.project.git("status", "--short").stdout == ""


def test_diff_and_log_show_cells_and_not_json(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    pair.execute()
    shown = pair.project.git("diff", "--", pair.both[1]).stdout
    commit(pair.project, add=["notebooks"])
    logged = pair.project.git("log", "-1", "-p", "--format=", "--", pair.both[1]).stdout
    for text in (shown, logged):
        assert "-second = 2\n+second = 22\n" in text
        assert '"' not in text
        assert "run 1" not in text


@pytest.mark.slow
@pytest.mark.skipif(not ODD.exists(), reason="the workshop's odd notebooks are not here")
@pytest.mark.parametrize("path", sorted(ODD.glob("*.ipynb")), ids=lambda path: path.stem[:20])
def test_a_notebook_from_elsewhere_is_stripped_or_refused_and_never_changed(equipped, path):
    project = equipped
    start = project.git("rev-list", "--max-parents=0", "HEAD").stdout.strip()
    name = f"notebooks/{path.name}"
    target = project.root / name
    target.write_bytes(path.read_bytes())
    try:
        project.git("add", name)
        refused = project.git("commit", "-q", "-m", "odd", check=False)
        assert target.read_bytes() == path.read_bytes()
        if refused.returncode:
            assert path.name in refused.stdout + refused.stderr or path.stem in refused.stdout
            project.git("add", "-A")
            again = project.git("commit", "-q", "-m", "odd", check=False)
            assert target.read_bytes() == path.read_bytes()
            if again.returncode == 0:
                assert_history_is_clean(project)
        elif nbfilter.language(nbfilter.parse(path.read_bytes())) != "r":
            assert_history_is_clean(project)
    finally:
        project.git("reset", "-q", "--hard", start)
        project.git("clean", "-q", "-f", "-d", "notebooks")


def test_jupyter_is_told_of_all_that_the_filter_takes_from_cells(pair):
    text = (pair.project.root / "notebooks" / "jupytext.toml").read_text(encoding="utf-8")
    told = set(tomllib.loads(text)["cell_metadata_filter"].split(",")) - {"all"}
    assert told == {f"-{key}" for key in nbfilter.VOLATILE_CELL - {"lines_to_next_cell"}}
