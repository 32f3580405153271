"""Merging notebooks: disjoint edits together, conflicts in valid JSON, and the way out of them."""

import json

import nbformat
import pytest
from notebook_pairs import assert_history_is_clean, commit

pytestmark = pytest.mark.slow


def edit(pair, old, new):
    """Edit, run and commit."""
    pair.edit_py(old, new)
    pair.sync()
    pair.execute()
    commit(pair.project, add=["notebooks"])


def branches(pair, theirs, ours):
    """Edit on a branch and on main."""
    pair.execute()
    pair.project.git("add", "-A")
    pair.project.git("switch", "-q", "-c", "branch")
    edit(pair, *theirs)
    pair.project.git("switch", "-q", "main")
    edit(pair, *ours)


def resolve(pair):
    """Write what is right in place of a conflict in the `.py`."""
    head, rest = pair.py.read_text().split("<<<<<<< ")
    tail = rest.split(">>>>>>> ")[1].split("\n", 1)[1]
    pair.py.write_text(f"{head}second = 'both'\n{tail}")


@pytest.mark.parametrize("how", ["merge", "rebase", "cherry-pick"])
def test_edits_of_different_cells_are_merged(pair, how):
    branches(pair, ("first = 1", "first = 11\n\n# %%\nnew = 1"), ("third = 3", "third = 33"))
    ids = {cell["id"] for cell in pair.read()["cells"]}
    pair.project.git(how, *(["--no-edit"] if how == "merge" else []), "branch")
    assert {"first = 11", "new = 1", "third = 33"} <= set(pair.says())
    assert ids < {cell["id"] for cell in pair.read()["cells"]}
    assert_history_is_clean(pair.project)
    nbformat.validate(nbformat.from_dict(pair.read()))
    assert pair.outputs()["third = 33"] == "run 1: third = 33\n"
    assert pair.outputs()["first = 11"] == "run 1: first = 11\n"
    assert pair.project.git("status", "--short").stdout == ""


@pytest.mark.parametrize("how", ["merge", "rebase", "cherry-pick"])
def test_a_conflict_leaves_valid_json_and_the_way_out_that_it_names_works(pair, how):
    branches(pair, ("second = 2", "second = 'theirs'"), ("second = 2", "second = 'ours'"))
    done = pair.project.git(how, "branch", check=False)
    assert done.returncode
    assert f'lab sync; git add "{pair.both[0]}" "{pair.both[1]}"' in done.stdout + done.stderr
    json.loads(pair.nb.read_text())
    assert "<<<<<<< " in pair.py.read_text()
    refused = pair.sync(check=False)
    assert refused.returncode == 1
    assert "conflict markers" in refused.stdout
    resolve(pair)
    pair.sync()
    pair.project.git("add", *pair.both)
    if how == "merge":
        pair.project.git("commit", "-q", "--no-edit")
    else:
        pair.project.git("-c", "core.editor=true", how, "--continue")
    assert "second = 'both'" in pair.says()
    assert pair.outputs()["third = 3"] == "run 1: third = 3\n"
    assert_history_is_clean(pair.project)


def test_a_conflicting_merge_into_a_notebook_with_an_edit_is_refused_as_into_any_file(pair):
    branches(pair, ("second = 2", "second = 'theirs'"), ("second = 2", "second = 'ours'"))
    pair.edit_nb("third = 3", "third = 33")  # in Jupyter, since the commit
    done = pair.project.git("merge", "branch", check=False)
    assert done.returncode
    assert pair.both[1] in done.stderr.partition("would be overwritten by merge")[2]
    assert "third = 33" in pair.nb.read_text()
    assert pair.project.git("status", "--short").stdout == f" M {pair.both[1]}\n"


def test_a_merge_that_is_aborted_keeps_outputs_made_since_the_commit(pair):
    branches(pair, ("second = 2", "second = 'theirs'"), ("second = 2", "second = 'ours'"))
    made = pair.execute("run 2")
    assert pair.project.git("merge", "branch", check=False).returncode
    pair.project.git("merge", "--abort")
    assert pair.outputs() == made


@pytest.mark.parametrize("how", ["merge", "rebase", "cherry-pick"])
@pytest.mark.parametrize("last", ["ours", "theirs"])
def test_a_conflict_may_be_resolved_to_either_side(pair, how, last):
    for branch in ("theirs", "ours") if last == "ours" else ("ours", "theirs"):
        pair.project.git("switch", "-q", "-c", branch, "main")
        pair.edit_py("second = 2", f"second = '{branch}'")
        pair.sync()
        commit(pair.project, add=["notebooks"])
    pair.project.git("switch", "-q", "ours")
    assert pair.project.git(how, "theirs", check=False).returncode
    head, rest = pair.py.read_text().split("<<<<<<< ")
    chosen, tail = rest.split("=======\n")[1].split(">>>>>>> ")
    pair.py.write_text(head + chosen + tail.split("\n", 1)[1])
    pair.sync()
    assert chosen.strip() in pair.says()


@pytest.mark.parametrize(
    "look", ["merge-tree --write-tree main branch", "merge", "rebase --autostash"]
)
def test_a_merge_that_is_looked_at_or_given_up_does_not_bring_an_edit_back(pair, look):
    branches(pair, ("second = 2", "second = 'theirs'"), ("second = 2", "second = 'ours'"))
    pair.edit_py("third = 3", "third = 33")
    pair.sync()
    if look == "merge":
        pair.project.git("stash", "-q")
    command = look.split() if "tree" in look else [*look.split(), "branch"]
    assert pair.project.git(*command, check=False).returncode
    if "tree" not in look:
        pair.project.git(command[0], "--abort")
    if look == "merge":
        pair.project.git("stash", "pop", "-q")
    assert "third = 33" in pair.says()
    pair.edit_py("third = 33", "third = 3")  # taken back
    done = pair.sync(check=False)
    assert done.returncode == 1 or "third = 3" in pair.says()  # asked about, or done


@pytest.mark.parametrize("away", ["stash", "switch"])
def test_what_was_cleared_stays_cleared_when_the_code_above_it_changed(pair, away):
    pair.execute()
    pair.project.git("add", "-A")
    pair.edit_nb("first = 1", "first = 11")
    pair.sync()
    pair.execute("run 2")
    pair.clear("print")
    if away == "stash":
        pair.project.git("stash", "-q")
        pair.project.git("stash", "pop", "-q")
    else:
        commit(pair.project, add=["notebooks"])
        pair.project.git("switch", "-q", "-c", "other", "HEAD~1")
        pair.project.git("switch", "-q", "main")
    assert pair.outputs()["print(first)"] == ""
    assert pair.outputs()["third = 3"] == "run 2: third = 3\n"


@pytest.mark.parametrize("broken", ["interpreter", "package", "theirs"])
def test_whatever_fails_in_the_driver_valid_json_is_left(pair, broken):
    branches(pair, ("first = 1", "first = 11"), ("third = 3", "third = 33"))
    key = "merge.notebook.driver"
    driver = pair.project.git("config", key).stdout.strip()
    if broken == "interpreter":
        pair.project.git("config", key, "p=/gone/python; exec $p" + driver.split('exec "$p"')[1])
    if broken == "package":
        pair.project.git("config", key, driver.replace("lab.cli", "lab.nonesuch"))
    if broken == "theirs":
        pair.project.git("switch", "-q", "branch")
        pair.nb.write_text('{"cells": [')
        pair.project.git("commit", "-q", "-a", "-m", "broken", "--no-verify")
        pair.project.git("switch", "-q", "-f", "main")
    assert pair.project.git("merge", "branch", check=False).returncode
    assert "third = 33" in ["".join(cell["source"]) for cell in pair.read()["cells"]]
    pair.sync()
    pair.project.git("add", *pair.both)
    pair.project.git("commit", "-q", "--no-edit")
    assert {"first = 11", "third = 33"} <= set(pair.says())
    assert_history_is_clean(pair.project)


def picture(name):
    """Return attachments of a cell."""
    return {name: {"image/png": "QUFB"}}


@pytest.mark.parametrize("place", [0, 5])
def test_a_merge_of_a_notebook_without_cell_ids_keeps_its_pictures(pair, place):
    nb = pair.read()
    nb["nbformat_minor"] = 4
    for cell in nb["cells"]:
        del cell["id"]
    nb["cells"] = [nb["cells"][0], *nb["cells"][1:], {**nb["cells"][3], "source": ["The end."]}]
    nb["cells"][0 if place == 0 else -1]["attachments"] = picture("p.png")
    pair.write(nb)
    pair.sync()
    commit(pair.project, add=["notebooks"])
    branches(pair, ("first = 1", "first = 11"), ("third = 3", "third = 33"))
    pair.project.git("merge", "-q", "--no-edit", "branch")
    assert {"first = 11", "third = 33"} <= set(pair.says())
    held = [cell.get("attachments") for cell in pair.read()["cells"]]
    assert [bool(one) for one in held] == [number == (place and 6) for number in range(7)]


def test_the_way_out_of_a_conflict_keeps_the_pictures_of_the_other_side(pair):
    pair.project.git("switch", "-q", "-c", "branch")
    nb = pair.read()
    nb["cells"][3] |= {"source": ["![p](attachment:p.png)"], "attachments": picture("p.png")}
    pair.write(nb)
    edit(pair, "second = 2", "second = 'theirs'")
    pair.project.git("switch", "-q", "main")
    edit(pair, "second = 2", "second = 'ours'")
    assert pair.project.git("merge", "branch", check=False).returncode
    assert "![p](attachment:p.png)" in pair.py.read_text()
    resolve(pair)
    pair.sync()
    pair.project.git("add", *pair.both)
    pair.project.git("commit", "-q", "--no-edit")
    assert pair.read()["cells"][3]["attachments"] == picture("p.png")


def test_a_conflict_in_a_notebook_without_another_half_names_a_way_that_exists(pair):
    path = pair.project.root / "docs" / "a.ipynb"

    def write(source):
        nb = pair.read()
        nb["cells"] = [{**nb["cells"][1], "source": [source]}]
        path.write_text(json.dumps(nb))
        commit(pair.project, add=["docs"], times=1)

    write("a = 1")
    pair.project.git("switch", "-q", "-c", "branch")
    write("a = 'theirs'")
    pair.project.git("switch", "-q", "main")
    write("a = 'ours'")
    said = pair.project.git("merge", "branch", check=False)
    assert 'git checkout --ours "docs/a.ipynb"' in said.stdout + said.stderr
    assert "docs/a.py" not in said.stdout + said.stderr


def test_a_notebook_of_another_kernel_is_left_as_on_one_side(pair):
    nb = {"cells": [], "nbformat": 4, "nbformat_minor": 5}
    nb["metadata"] = {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}
    path = pair.project.root / "notebooks" / "r.ipynb"

    def write(*sources):
        cells = [
            {"cell_type": "code", "id": f"c{n}", "metadata": {}, "source": [source]}
            | {"outputs": [], "execution_count": None}
            for n, source in enumerate(sources)
        ]
        path.write_text(json.dumps({**nb, "cells": cells}))
        commit(pair.project, add=["notebooks"], times=1)

    write("a <- 1", "b <- 2", "c <- 3")
    pair.project.git("switch", "-q", "-c", "branch")
    write("a <- 11", "b <- 2", "c <- 3")
    pair.project.git("switch", "-q", "main")
    write("a <- 1", "b <- 2", "c <- 33")
    said = pair.project.git("merge", "branch", check=False)
    assert 'git checkout --ours "notebooks/r.ipynb"' in said.stdout + said.stderr
    sources = [cell["source"] for cell in json.loads(path.read_text())["cells"]]
    assert sources == [["a <- 1"], ["b <- 2"], ["c <- 33"]]


def test_what_both_sides_changed_alike_is_no_conflict_and_a_new_cell_keeps_its_id(pair):
    def both(**more):
        nb = pair.read()
        nb["metadata"]["authors"] = [{"name": "Ada"}]
        nb["cells"][0]["attachments"] = picture("p.png")
        nb["cells"][2] |= more
        pair.write(nb)

    pair.project.git("switch", "-q", "-c", "branch")
    both(id="theirs", source=["other = 5"])
    edit(pair, "first = 1", "first = 11")
    pair.project.git("switch", "-q", "main")
    both()
    edit(pair, "third = 3", "third = 33")
    pair.project.git("merge", "-q", "--no-edit", "branch")
    assert {"first = 11", "other = 5", "third = 33"} <= set(pair.says())
    assert pair.read()["cells"][2]["id"] == "theirs"


def test_a_conflict_shows_what_was_on_disk_before_it(pair):
    pair.execute()
    pair.project.git("add", "-A")
    pair.project.git("switch", "-q", "-c", "branch")
    pair.edit_py("first = 1", "first = 11")
    edit(pair, "second = 2", "second = 'theirs'")
    pair.project.git("switch", "-q", "main")
    pair.edit_py("second = 2", "second = 'ours'")
    pair.sync()
    pair.execute("run 2")
    pair.clear("print")
    commit(pair.project, add=["notebooks"])
    made = pair.outputs()
    assert pair.project.git("merge", "branch", check=False).returncode
    assert pair.outputs() == made


def test_outputs_outlive_a_rebase_onto_a_branch_on_which_fewer_cells_ran(pair):
    pair.project.git("switch", "-q", "-c", "branch")
    edit(pair, "second = 2", "second = 22")
    pair.clear("third")
    pair.project.git("add", "-A")
    pair.project.git("switch", "-q", "main")
    edit(pair, "# Title", "# Another title")
    pair.project.git("rebase", "-q", "branch")
    assert pair.outputs()["third = 3"] == "run 1: third = 3\n"
