"""Which half was edited: told by commits and syncs, refused where nothing tells, never guessed."""

import json
import re
import shlex
import shutil

import pytest
from notebook_pairs import Pair, commit

pytestmark = pytest.mark.slow


def stash(pair):
    pair.project.git("stash", "-q")


def restore(pair):
    pair.project.git("restore", "notebooks")


def reset(pair):
    pair.project.git("reset", "-q", "--hard")


@pytest.fixture(params=[stash, restore, reset])
def again(pair, request):
    """Give a pair whose `.py` was edited and synced, taken back by git, and edited alike again."""
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    request.param(pair)
    pair.edit_py("second = 2", "second = 22")
    return pair


def test_an_edit_made_again_after_git_took_it_away_is_not_undone(again):
    refused = again.sync(check=False)
    assert refused.returncode == 1
    assert "nothing tells which one was edited" in refused.stdout
    assert "second = 22" in again.py.read_text()
    again.edit_nb("second = 2", "second = 22")
    again.sync()
    assert "second = 22" in again.says()


def test_an_edit_made_again_with_another_is_not_undone_either(again):
    again.edit_py("third = 3", "third = 33")
    again.sync(check=False)
    assert "second = 22" in again.py.read_text()
    assert "third = 33" in again.py.read_text()


@pytest.mark.parametrize("first", ["py", "nb"])
def test_an_edit_made_again_and_another_in_the_other_half_are_both_kept(pair, first):
    mine, other = (pair.edit_py, pair.edit_nb)[:: 1 if first == "py" else -1]
    mine("second = 2", "second = 22")
    pair.sync()
    restore(pair)
    mine("second = 2", "second = 22")
    other("third = 3", "third = 33")
    pair.sync(check=False)
    said = pair.py.read_text() + pair.nb.read_text()
    assert "second = 22" in said
    assert "third = 33" in said


@pytest.mark.parametrize("how", ["restore", "stash"])
@pytest.mark.parametrize("kept", ["py", "nb"])
def test_a_half_put_back_by_git_and_edited_then_undoes_nothing_in_the_other(pair, kept, how):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    gone = pair.both[1] if kept == "py" else pair.both[0]
    pair.project.git(*(["restore", gone] if how == "restore" else ["stash", "push", "-q", gone]))
    (pair.edit_nb if kept == "py" else pair.edit_py)("third = 3", "third = 33")
    pair.sync(check=False)
    assert "second = 22" in (pair.py if kept == "py" else pair.nb).read_text()


@pytest.mark.parametrize("half", ["py", "nb"])
def test_an_edit_taken_back_before_the_commit_is_carried_over(pair, half):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    (pair.edit_py if half == "py" else pair.edit_nb)("second = 22", "second = 2")
    pair.sync()
    assert "second = 2" in pair.says()


def test_what_jupyter_saved_in_both_halves_is_known_to_the_next_sync(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.edit_nb("second = 2", "second = 22")
    assert pair.sync() == ""
    pair.edit_py("second = 22", "second = 2")
    pair.sync()
    assert "second = 2" in pair.says()


def on_a_branch(pair, old, new):
    """Commit an edit of the pair on a branch, and leave it."""
    pair.project.git("switch", "-q", "-c", "branch")
    pair.edit_py(old, new)
    pair.sync()
    commit(pair.project, add=["notebooks"])
    pair.project.git("switch", "-q", "main")


def test_an_edit_brought_by_hand_from_another_branch_is_not_undone(pair):
    on_a_branch(pair, "second = 2", "second = 2\nwarmup = 5")
    outputs = pair.execute()
    pair.edit_py("second = 2", "second = 2\nwarmup = 5")
    pair.edit_nb("third = 3", "third = 33")
    refused = pair.sync(check=False)  # or it was taken back in the notebook after the last sync
    assert refused.returncode == 1
    assert "warmup = 5" in pair.py.read_text()
    assert "third = 33" in pair.nb.read_text()
    pair.edit_py("third = 3", "third = 33")
    command = re.search(r"if you corrected the .py, type: (.+?);", refused.stdout)[1]
    pair.project.python("-m", *shlex.split(command), check=True)
    assert {"second = 2\nwarmup = 5", "third = 33"} <= set(pair.says())
    assert pair.outputs()["first = 1"] == outputs["first = 1"]
    assert pair.sync() == ""


def move_on(pair):
    pair.project.git("switch", "-q", "-c", "feature")


def stash_and_pop(pair):
    pair.project.git("stash", "-q")
    pair.project.git("stash", "pop", "-q")


@pytest.mark.parametrize("moved", [move_on, stash_and_pop])
def test_one_of_two_edits_taken_back_after_git_moved_is_not_undone(pair, moved):
    pair.edit_py("second = 2", "second = 22")
    pair.edit_py("third = 3", "third = 33")
    pair.sync()
    moved(pair)
    pair.execute()
    pair.edit_py("second = 22", "second = 2")
    done = pair.sync(check=False)
    assert "second = 2\n" in pair.py.read_text()
    assert done.returncode == 1
    assert "nothing tells which one was edited" in done.stdout


@pytest.mark.parametrize("moved", [move_on, stash_and_pop])
def test_another_edit_after_git_moved_is_carried_over(pair, moved):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    moved(pair)
    pair.execute()
    pair.edit_py("third = 3", "third = 33")
    pair.sync()
    assert {"second = 22", "third = 33"} <= set(pair.says())


@pytest.mark.parametrize("how", [["checkout", "--"], ["stash", "push", "-q", "--"]])
def test_a_half_that_git_put_back_does_not_undo_the_edit_of_the_other(pair, how):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    pair.project.git(*how, pair.both[1])
    refused = pair.sync(check=False)
    assert refused.returncode == 1
    assert "second = 22" in pair.py.read_text()


def test_a_copied_pair_is_edited_like_any_other(pair):
    pair.execute()
    copied = Pair(pair.project, "notebooks/02_copy")
    shutil.copy(pair.py, copied.py)
    shutil.copy(pair.nb, copied.nb)
    copied.edit_py("second = 2", "second = 22")
    pair.sync()
    assert "second = 22" in copied.says()
    assert copied.outputs()["first = 1"] == "run 1: first = 1\n"


@pytest.mark.parametrize("heading", ["# cat against dog", "# Why?", "Text\n# ls"])
@pytest.mark.parametrize("half", ["py", "nb"])
def test_a_heading_that_jupytext_takes_for_a_command_is_refused_and_stays(pair, heading, half):
    if half == "nb":
        pair.edit_nb("Some prose.", heading)
    else:
        pair.edit_py("# Some prose.", "\n".join(f"# {line}" for line in heading.split("\n")))
    before = pair.nb.read_bytes(), pair.py.read_bytes()
    refused = pair.sync(check=False)
    assert refused.returncode == 1
    assert "takes the heading" in refused.stdout
    assert (pair.nb.read_bytes(), pair.py.read_bytes()) == before


def test_a_half_checked_out_from_another_branch_is_not_overwritten(pair):
    on_a_branch(pair, "second = 2", "second = 2\nwarmup = 5")
    pair.project.git("checkout", "branch", "--", pair.both[0])
    pair.sync(check=False)
    assert "warmup = 5" in pair.py.read_text()


def test_an_edit_after_a_colleagues_commit_goes_on_from_that(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    commit(pair.project, add=["notebooks"])
    on_a_branch(pair, "third = 3", "third = 33")
    pair.project.git("merge", "-q", "--ff-only", "branch")
    pair.edit_nb("first = 1", "first = 11")
    pair.sync()
    assert {"first = 11", "second = 22", "third = 33"} <= set(pair.says())


@pytest.mark.parametrize(
    "source",
    [
        "a = 1\n# %% part two\nb = a",
        'label = "mean\u2028error"',
        "a = 1\n\x0cb = 2",
        "# In[3]:\na = 1",
        "a = 1\n# <codecell>\nb = 2",
    ],
)
def test_a_cell_that_no_script_can_hold_is_refused_and_stays_as_it_is(pair, source):
    pair.execute()
    nb = pair.read()
    nb["cells"][1]["source"] = source.split("\0")
    pair.write(nb)
    before = pair.nb.read_bytes(), pair.py.read_bytes()
    refused = pair.sync(check=False)
    assert refused.returncode == 1
    assert "cell 2 has a line" in refused.stdout
    assert (pair.nb.read_bytes(), pair.py.read_bytes()) == before


def test_an_odd_line_end_in_a_script_is_refused(pair):
    pair.edit_py("second = 2", "second = '2\u2028'")
    refused = pair.sync(check=False)
    assert refused.returncode == 1
    assert "odd line end" in refused.stdout
    assert "second = 2" in ["".join(cell["source"]) for cell in pair.read()["cells"]]


def test_magics_and_commented_magics_are_no_such_cells(pair):
    for source in ("%%time\nx = 1", "# %%time\nx = 1", "s = '''\n# %% in a text\n'''"):
        pair.edit_nb("second = 2", source)
        pair.sync()
        pair.edit_nb(source, "second = 2")
        pair.sync()


def test_a_dot_in_a_name_is_part_of_it(pair):
    for name, value in (("lr_0", 1), ("lr_0.1", 2)):
        Pair(pair.project, f"notebooks/{name}").make([["# T"], f"value = {value}"])
    dotted = Pair(pair.project, "notebooks/lr_0.1")
    dotted.edit_py("value = 2", "value = 3")
    pair.sync("lr_0.1")
    assert "value = 3" in dotted.says()
    assert "value = 1" in Pair(pair.project, "notebooks/lr_0").says()
    said = pair.project.lab("check", "lr_0.1").stdout
    assert "notebooks/lr_0.1.py:" in said
    assert "missing; lab sync" not in said


def attach(pair, data, **metadata):
    """Give the first cell a picture, and the notebook metadata."""
    nb = pair.read()
    nb["cells"][0]["attachments"] = {"image.png": {"image/png": data}}
    nb["metadata"] |= metadata
    pair.write(nb)
    commit(pair.project, add=["notebooks"])


def test_a_merge_takes_a_new_picture_and_metadata_from_the_other_side(pair):
    attach(pair, "QUFB")
    pair.project.git("switch", "-q", "-c", "theirs")
    attach(pair, "TkVX", authors=[{"name": "Ada"}])
    pair.project.git("switch", "-q", "main")
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    commit(pair.project, add=["notebooks"])
    pair.project.git("merge", "-q", "--no-edit", "theirs")
    nb = pair.read()
    assert nb["cells"][0]["attachments"] == {"image.png": {"image/png": "TkVX"}}
    assert nb["metadata"]["authors"] == [{"name": "Ada"}]
    assert "second = 22" in pair.says()


def test_two_pictures_for_one_cell_are_a_conflict(pair):
    attach(pair, "QUFB")
    pair.project.git("switch", "-q", "-c", "theirs")
    attach(pair, "TkVX")
    pair.project.git("switch", "-q", "main")
    attach(pair, "T1VS")
    done = pair.project.git("merge", "--no-edit", "theirs", check=False)
    assert done.returncode
    assert "both sides changed the same place" in done.stdout + done.stderr
    assert json.loads(pair.nb.read_text())["cells"][0]["attachments"]["image.png"]


def test_worktrees_remember_their_outputs_apart(pair, tmp_path):
    mine = pair.execute("here")
    pair.project.git("add", "-A")
    pair.project.git("worktree", "add", "-q", str(tmp_path / "other"), "-b", "other")
    other = Pair(type(pair.project)(tmp_path / "other"))
    other.execute("there")
    other.project.git("add", "-A")
    on_a_branch(pair, "first = 1", "first = 11")
    assert pair.outputs() == mine


def test_outputs_survive_a_merge_that_renames_an_edited_notebook(pair):
    pair.project.git("switch", "-q", "-c", "theirs")
    for name in pair.both:
        pair.project.git("mv", name, name.replace("01_pair", "01_renamed"))
    moved = Pair(pair.project, "notebooks/01_renamed")
    moved.edit_py("second = 2", "second = 22")
    pair.sync()
    commit(pair.project, add=["notebooks"])
    pair.project.git("switch", "-q", "main")
    before = pair.execute()
    pair.project.git("add", "-A")
    pair.project.git("merge", "-q", "--no-edit", "theirs")
    after = moved.outputs()
    assert after["third = 3"] == before["third = 3"]
    assert after["second = 22"] == ""


def test_half_an_emoji_in_an_output_costs_no_output(pair):
    pair.execute()
    text = pair.nb.read_text().replace("run 1: first = 1", "run 1: \\ud83d first = 1")
    pair.nb.write_text(text)
    pair.project.git("add", "-A")
    on_a_branch(pair, "second = 2", "second = 22")
    assert "\ud83d" in pair.outputs()["first = 1"]
    assert pair.outputs()["third = 3"] == "run 1: third = 3\n"


def test_a_linked_notebook_stays_a_link(pair, tmp_path):
    elsewhere = tmp_path / "elsewhere.ipynb"
    pair.nb.rename(elsewhere)
    pair.nb.symlink_to(elsewhere)
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    assert pair.nb.is_symlink()
    assert "second = 22" in pair.says()
    pair.sync("--undo")
    assert pair.nb.is_symlink()


def test_what_jupyter_saved_in_a_folder_that_git_does_not_know_is_known_to_the_next_sync(pair):
    pair.project.git("config", "status.showUntrackedFiles", "no")
    new = Pair(pair.project, "notebooks/deep/02_new").make()
    new.edit_py("second = 2", "second = 22")
    new.edit_nb("second = 2", "second = 22")
    assert pair.sync() == ""
    new.edit_py("second = 22", "second = 2")
    pair.sync()
    assert "second = 2" in new.says()


def test_a_sync_with_nothing_to_do_takes_no_place_of_an_older_one(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.edit_nb("second = 2", "second = 22")
    pair.sync()
    backup = pair.project.root / ".git" / "lab" / "backup"
    before = sorted(backup.iterdir())
    pair.sync()
    assert sorted(backup.iterdir()) == before


def test_an_edit_after_a_commit_that_no_sync_saw_is_not_undone(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    for edit in (pair.edit_py, pair.edit_nb):  # Jupyter saves both halves
        edit("second = 22", "second = 222")
    commit(pair.project, add=["notebooks"], times=1)
    pair.execute()
    pair.edit_py("second = 222", "second = 22")
    pair.sync(check=False)
    assert "second = 22\n" in pair.py.read_text()


def test_a_commit_of_one_half_alone_is_mended_from_the_one_before(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.project.git("commit", "-q", "-a", "-m", "half", "--no-verify")
    shutil.rmtree(pair.project.root / ".git" / "lab" / "backup")  # as in a clone
    pair.sync()
    assert "second = 22" in pair.says()


def test_a_pair_that_was_never_committed_goes_on_from_its_sync_or_from_what_is_staged(pair):
    new = Pair(pair.project, "notebooks/02_new").make()
    move_on(pair)
    new.edit_py("second = 2", "second = 22")
    new.edit_nb("third = 3", "third = 33")
    pair.sync()
    assert {"second = 22", "third = 33"} <= set(new.says())
    pair.project.git("add", "notebooks")
    shutil.rmtree(pair.project.root / ".git" / "lab" / "backup")
    new.edit_py("first = 1", "first = 11")
    pair.sync()
    assert "first = 11" in new.says()


def commit_something_else(pair):
    pair.project.git("commit", "-q", "--allow-empty", "-m", "else", "--no-verify")
    pair.execute()


@pytest.mark.parametrize("meanwhile", [move_on, commit_something_else])
def test_an_edit_that_is_taken_back_is_carried_over_whatever_git_did_meanwhile(pair, meanwhile):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    meanwhile(pair)
    pair.edit_py("second = 22", "second = 2")
    pair.sync()
    assert "second = 2" in pair.says()
