"""`lab sync`: both halves of a pair in step by content, and nothing lost."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from notebook_pairs import (
    CELLS,
    Pair,
    assert_history_is_clean,
    commit,
    copy_of,
    set_times,
)


@pytest.mark.parametrize("newer", ["py", "nb", "equal"])
@pytest.mark.parametrize("edited", ["py", "nb", "both"])
def test_the_edit_wins_whatever_the_modification_times(pair, edited, newer):
    pair.execute()
    if edited in ("py", "both"):
        pair.edit_py("second = 2", "second = 22")
    if edited in ("nb", "both"):
        pair.edit_nb("third = 3", "third = 33")
    set_times(pair, newer)
    assert "brought in step" in pair.sync()
    said = pair.says()
    assert ("second = 22" in said) == (edited != "nb")
    assert ("third = 33" in said) == (edited != "py")
    assert pair.outputs()["print(first)"] == "run 1: print(first)\n"
    assert pair.sync() == ""


def test_an_edit_of_the_same_place_in_both_is_refused_and_shown_and_nothing_is_touched(pair):
    pair.execute()
    pair.edit_py("second = 2", "second = 'py'")
    pair.edit_nb("second = 2", "second = 'nb'")
    before = pair.py.read_bytes(), pair.nb.read_bytes()
    done = pair.sync(check=False)
    assert done.returncode == 1
    assert "second = 'py'" in done.stdout
    assert "second = 'nb'" in done.stdout
    assert "third" not in done.stdout
    assert (pair.py.read_bytes(), pair.nb.read_bytes()) == before


def test_an_output_never_moves_under_a_cell_that_did_not_make_it(pair):
    pair.make([["# T"], "a = 1", "plot()", "b = 2", "plot()"])
    commit(pair.project, add=["notebooks"])
    nb = pair.read()
    for number, cell in enumerate(nb["cells"]):
        if cell["cell_type"] == "code":
            cell["outputs"] = [
                {"output_type": "stream", "name": "stdout", "text": [f"of cell {number}"]}
            ]
    pair.write(nb)
    pair.edit_py("b = 2", "x = 0\n\n# %%\nplot()\n\n# %%\nb = 3")
    pair.sync()
    got = [
        ("".join(cell["source"]), "".join("".join(o["text"]) for o in cell["outputs"]))
        for cell in pair.read()["cells"]
        if cell["cell_type"] == "code"
    ]
    assert got == [
        ("a = 1", "of cell 1"),
        ("plot()", "of cell 2"),
        ("x = 0", ""),
        ("plot()", ""),
        ("b = 3", ""),
        ("plot()", "of cell 4"),
    ]


def test_a_reformatted_cell_keeps_its_output_and_a_rewritten_one_does_not(pair):
    pair.execute()
    pair.edit_py("first = 1", "first   =  1  # one")
    pair.edit_py("print(first)", 'print("first")')
    pair.sync()
    assert pair.outputs()["first   =  1  # one"] == "run 1: first = 1\n"
    assert pair.outputs()['print("first")'] == ""


def test_a_reformatted_cell_with_a_magic_keeps_its_output_too(pair):
    pair.edit_nb("first = 1", "%matplotlib inline\nfirst =  1")
    pair.sync()
    pair.execute()
    pair.edit_py("first =  1", "first = 1")
    pair.sync()
    assert pair.outputs()["%matplotlib inline\nfirst = 1"].startswith("run 1")
    pair.edit_py("# %matplotlib inline", "# %matplotlib widget")
    pair.sync()
    assert pair.outputs()["%matplotlib widget\nfirst = 1"] == ""


def test_a_moved_cell_takes_its_output_id_and_attachment_along(pair):
    nb = pair.read()
    nb["cells"][3]["attachments"] = {"a.png": {"image/png": "iVBORw0KGgo="}}
    pair.write(nb)
    pair.execute()
    text = pair.py.read_text()
    head, tail = text.split("# %%\nsecond = 2\n\n# %% [markdown]\n# Some prose.\n\n")
    pair.py.write_text(
        head + tail.rstrip("\n") + "\n\n# %% [markdown]\n# Some prose.\n\n# %%\nsecond = 2\n"
    )
    pair.sync()
    after = {"".join(cell["source"]): cell for cell in pair.read()["cells"]}
    before = {"".join(cell["source"]): cell for cell in nb["cells"]}
    assert pair.outputs()["second = 2"] == "run 1: second = 2\n"
    assert after["Some prose."]["attachments"] == before["Some prose."]["attachments"]
    assert {s: c["id"] for s, c in after.items()} == {s: c["id"] for s, c in before.items()}


def test_tags_attachments_and_the_kernel_survive_an_edit_of_the_other_half(pair):
    nb = pair.read()
    nb["cells"][1]["metadata"] = {"tags": ["parameters"], "slideshow": {"slide_type": "skip"}}
    nb["cells"][0]["attachments"] = {"a.png": {"image/png": "iVBORw0KGgo="}}
    nb["metadata"]["kernelspec"]["display_name"] = "My kernel"
    nb["metadata"]["authors"] = [{"name": "Ada"}]
    pair.write(nb)
    pair.sync()
    assert '# %% slideshow={"slide_type": "skip"} tags=["parameters"]' in pair.py.read_text()
    pair.edit_py("# # Title", "# # Another title")
    pair.sync()
    after = pair.read()
    assert after["metadata"] == nb["metadata"]
    assert after["cells"][0]["attachments"] == nb["cells"][0]["attachments"]
    assert after["cells"][1]["metadata"] == nb["cells"][1]["metadata"]
    pair.edit_py(' tags=["parameters"]', "")
    pair.sync()
    assert pair.read()["cells"][1]["metadata"] == {"slideshow": {"slide_type": "skip"}}


def test_undo_puts_back_what_the_last_sync_replaced(pair):
    pair.execute()
    pair.edit_py("second = 2", "second = 22")
    pair.edit_nb("third = 3", "third = 33")
    before = pair.py.read_bytes(), pair.nb.read_bytes()
    pair.sync()
    assert (pair.py.read_bytes(), pair.nb.read_bytes()) != before
    after = pair.py.read_bytes()
    pair.py.write_text(pair.py.read_text() + "\n# %%\nlate = 1\n")
    refused = pair.sync("--undo", check=False)
    assert refused.returncode == 2
    assert "nothing is undone" in refused.stderr
    pair.py.write_bytes(after)
    pair.sync("--undo")
    assert (pair.py.read_bytes(), pair.nb.read_bytes()) == before


def test_undo_removes_a_half_that_sync_had_made(pair):
    new = Pair(pair.project, "notebooks/02_new").make()
    assert new.nb.exists()
    assert "02_new.ipynb: gone, as before" in pair.sync("--undo")
    assert new.py.exists()
    assert not new.nb.exists()


def test_the_same_edit_twice_gives_the_same_bytes(pair, tmp_path):
    other = Pair(copy_of(pair.project, tmp_path / "other"))
    for one in (pair, other):
        one.edit_py("second = 2", "second = 2\n\n# %%\nnew = 1\n\n# %%\nnew = 1")
        one.sync()
    assert pair.nb.read_bytes() == other.nb.read_bytes()
    ids = [cell["id"] for cell in pair.read()["cells"]]
    assert len(set(ids)) == len(ids)


def test_a_cell_inserted_at_the_top_of_thirty_changes_at_most_its_own_lines(pair):
    cells = [f"value_{number} = {number}" for number in range(30)]
    pair.make(cells)
    commit(pair.project, add=["notebooks"])
    pair.execute()
    pair.edit_py("# %%\nvalue_0 ", "# %%\ninserted = True\n\n# %%\nvalue_0 ")
    pair.sync()
    commit(pair.project, add=["notebooks"])
    stat = pair.project.git("show", "--numstat", "--format=", "--no-textconv").stdout
    changes = {line.split()[2]: line.split()[:2] for line in stat.splitlines()}
    assert changes[pair.both[0]] == ["3", "0"]
    assert changes[pair.both[1]] == ["10", "0"]
    assert_history_is_clean(pair.project)
    assert sum(bool(text) for text in pair.outputs().values()) == 30


@pytest.mark.parametrize("half", [0, 1])
def test_a_half_deleted_from_a_committed_pair_is_not_made_again(pair, half):
    gone, other = pair.both[half], pair.both[1 - half]
    (pair.project.root / gone).unlink()
    done = pair.sync(check=False)
    assert done.returncode == 1
    assert "git restore" in done.stdout
    assert not (pair.project.root / gone).exists()
    assert (pair.project.root / other).exists()


@pytest.mark.parametrize("half", ["py", "nb"])
def test_a_new_half_alone_gets_its_other_half(pair, half):
    new = Pair(pair.project, "notebooks/实验 one")
    new.make()
    wanted = new.says()
    (new.nb if half == "py" else new.py).unlink()
    pair.sync()
    assert new.says() == wanted


def test_edits_between_two_commits_go_on_from_the_last_sync(pair):
    for number in (22, 23, 24):
        pair.edit_py("second = ", f"second = {number} + ")
        pair.sync()
        pair.edit_nb("second = ", f"second = {number} - ")
        pair.sync()
    assert "second = 24 - 24 + 23 - 23 + 22 - 22 + 2" in pair.says()
    new = Pair(pair.project, "notebooks/02_new").make()
    new.edit_py("second = 2", "second = 22")
    pair.sync()
    assert "second = 22" in new.says()


@pytest.mark.slow
def test_backups_of_a_large_notebook_do_not_fill_the_disk(pair):
    for number in range(8):
        pair.execute("a long output " * 30_000)
        pair.edit_py("second = ", f"second = {number} + ")
        pair.sync()
    backup = pair.project.root / ".git" / "lab" / "backup"
    large = [path for path in backup.rglob("*.ipynb") if path.stat().st_size > 1_000_000]
    assert 0 < len({path.relative_to(backup).parts[0] for path in large}) <= 3
    pair.sync("--undo")
    assert "second = 7 + 6" in pair.py.read_text(encoding="utf-8")
    assert any(said.startswith("second = 6 + 5") for said in pair.outputs())


@pytest.mark.slow
def test_undo_takes_no_notebook_for_new_whose_backup_was_large(pair):
    other = Pair(pair.project, "notebooks/02_other").make()
    pair.execute("a long output " * 30_000)
    pair.py.write_text("# %% [markdown]\n# # Title\n", encoding="utf-8")
    pair.sync()
    for number in range(4):  # Jupyter saves both halves
        other.edit_py("second = ", f"second = {number} + ")
        other.edit_nb("second = ", f"second = {number} + ")
        pair.sync()
    pair.sync("--undo", check=False)
    assert pair.nb.exists()


def test_new_halves_that_differ_with_no_commit_to_tell_are_refused(pair):
    new = Pair(pair.project, "notebooks/02_new").make([["# Other"], "second = 2"])
    new.edit_py("second = 2", "second = 22")
    shutil.rmtree(pair.project.root / ".git" / "lab" / "backup")
    done = pair.sync(check=False)
    assert done.returncode == 1
    assert "nothing tells which one was edited" in done.stdout


def test_spacing_and_line_ends_of_a_person_are_left_alone(pair):
    text = pair.py.read_text().replace("# %%\nthird", "\n\n\n# %%\nthird")
    pair.py.write_bytes(text.replace("\n", "\r\n").encode())
    assert pair.sync() == ""
    pair.edit_nb("third = 3", "third = 33")
    pair.sync()
    assert pair.py.read_text() == text.replace("third = 3", "third = 33")


def test_magics_and_shell_lines_are_comments_in_one_half_and_code_in_the_other(pair):
    pair.edit_nb("third = 3", "%matplotlib inline\n!ls\nthird = 3")
    pair.sync()
    assert "# %matplotlib inline\n# !ls\nthird = 3" in pair.py.read_text()
    pair.edit_py("third = 3", "third = 4")
    pair.sync()
    assert "%matplotlib inline\n!ls\nthird = 4" in pair.says()


def test_a_full_disk_during_sync_loses_nothing(pair):
    resource = pytest.importorskip("resource")
    pair.execute()
    nb = pair.read()
    nb["cells"][1]["outputs"][0]["text"] = ["x" * 200_000]
    pair.write(nb)
    pair.edit_py("second = 2", "second = 22")
    before = pair.py.read_bytes(), pair.nb.read_bytes()

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = pair.project.lab("sync", preexec_fn=full)
    assert done.returncode == 2
    assert done.stderr.startswith("lab: ")
    assert (pair.py.read_bytes(), pair.nb.read_bytes()) == before
    pair.sync()
    assert "second = 22" in pair.says()


@pytest.mark.slow
def test_two_syncs_at_once_leave_a_pair_in_step(pair):
    pair.execute()
    pair.edit_py("second = 2", "second = 22")
    command = [sys.executable, "-m", f"{pair.project.package}.lab.cli", "sync"]
    running = [
        subprocess.Popen(command, cwd=pair.project.root, env=pair.project.env, stdout=-3)
        for _ in range(3)
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert "second = 22" in pair.says()


def test_an_invalid_notebook_or_script_is_named_and_left_alone(pair):
    pair.nb.write_text('{"cells": [')
    done = pair.sync(check=False)
    assert done.returncode == 1
    assert "01_pair" in done.stdout
    assert pair.nb.read_text() == '{"cells": ['
    assert "there are: 01_pair" in pair.sync("nonesuch", check=False).stderr


def test_a_notebook_of_another_kernel_is_left_alone(pair):
    nb = pair.read()
    nb["metadata"] = {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}
    path = pair.project.root / "notebooks" / "02_in_r.ipynb"
    path.write_text(json.dumps(nb))
    assert pair.sync() == ""
    assert not path.with_suffix(".py").exists()


def test_names_are_understood_from_anywhere(pair):
    pair.edit_py("second = 2", "second = 22")
    for number, name in enumerate(["01_pair", "notebooks/01_pair.ipynb", str(pair.py)]):
        pair.edit_py("second = ", f"second = {number}")
        assert "brought in step" in pair.sync(name)
    pair.edit_py("third = 3", "third = 33")
    assert "brought in step" in pair.sync("01_pair.py", cwd=pair.py.parent)
    pair.edit_py("third = 33", "third = 333")
    assert "brought in step" in pair.sync(pair.both[0], cwd=pair.py.parent)
    assert len(CELLS) == len(pair.says())


def test_what_a_killed_write_leaves_behind_is_not_committed(pair):
    left = [f"notebooks/.lab-{name}.k3j_2h1x" for name in (pair.nb.name, pair.py.name)]
    for name in left:  # as project.write_whole names its scratch file
        (pair.project.root / name).write_text("outputs")
    pair.project.git("add", "-A")
    assert pair.project.git("ls-files", *left).stdout == ""


def test_the_end_of_a_conflict_alone_is_a_marker_too(pair):
    pair.edit_py("second = 2", "second = 2\n>>>>>>> theirs")
    refused = pair.sync(check=False)
    assert refused.returncode == 1
    assert "conflict markers" in refused.stdout


def test_prose_that_looks_like_a_command_is_prose(pair):
    pair.edit_nb("Some prose.", "cat or dog\nWhy?")
    pair.sync()
    assert "cat or dog\nWhy?" in pair.says()


def test_metadata_on_which_jupytext_fails_are_said_in_one_line(pair):
    nb = pair.read()
    nb["cells"][1]["metadata"] = {"title": 3}
    pair.write(nb)
    refused = pair.sync(check=False)
    assert refused.returncode == 1
    assert "jupytext cannot read it" in refused.stdout


def test_old_backups_go(pair):
    backup = pair.project.root / ".git" / "lab" / "backup"
    for number in range(60):
        (backup / f"{number:02}-1" / "seen").mkdir(parents=True)
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    assert len(list(backup.iterdir())) == 50
    pair.sync("--undo")


def test_a_commit_of_text_in_another_coding_is_no_obstacle(pair):
    text = pair.py.read_bytes()
    pair.py.write_bytes(text + "# é\n".encode("latin-1"))
    pair.project.git("commit", "-q", "-a", "-m", "odd", "--no-verify")
    pair.py.write_bytes(text.replace(b"second = 2", b"second = 22"))
    pair.sync()
    assert "second = 22" in pair.says()


def test_what_git_cannot_merge_is_said_in_its_words(pair):
    pair.edit_nb("second = 2", "second = '\0'")
    pair.edit_py("third = 3", "third = 33")
    refused = pair.sync(check=False)
    assert refused.returncode == 1
    assert "git merge-file failed" in refused.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["py", "nb"])
@pytest.mark.parametrize("state", ["unstaged", "staged", "new", "new and staged"])
def test_the_way_out_of_edits_of_one_place_works_in_every_state(pair, state, kept):
    if "new" in state:
        pair = Pair(pair.project, "notebooks/02_new").make()
    pair.execute()
    pair.edit_py("second = 2", "second = 'py'")
    pair.edit_nb("second = 2", "second = 'nb'")
    if "staged" in state.split():
        pair.project.git("add", *pair.both)
    said = pair.sync(check=False).stdout
    ways = re.search(r"if it is the \.py, type: (.+?); else: (.+?)\. Run", said).groups()
    pair.project.python("-m", *shlex.split(ways[kept == "nb"]), check=True)
    pair.sync()
    assert f"second = '{kept}'" in pair.says()
    assert pair.outputs()["third = 3"] == "run 1: third = 3\n"
