"""The guard, as a hook in real commits: what it refuses, and what it says to type."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from notebook_pairs import (
    Pair,
    assert_history_is_clean,
    commit,
    lab,
    set_times,
)


def try_commit(pair, *arguments):
    """Commit once; return the exit code and what was said."""
    done = pair.project.git("commit", "-q", "-m", "x", *arguments, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow  # the same nine, without a commit, are among those of `lab sync`
@pytest.mark.parametrize("newer", ["py", "nb", "equal"])
@pytest.mark.parametrize("edited", ["py", "nb", "both"])
def test_an_edit_of_a_half_or_of_different_cells_is_committed_twice_asked(pair, edited, newer):
    outputs = pair.execute()
    if edited != "nb":
        pair.edit_py("second = 2", "second = 22")
    if edited != "py":
        pair.edit_nb("third = 3", "third = 33")
    set_times(pair, newer)
    commit(pair.project, add=["notebooks"])
    assert_history_is_clean(pair.project)
    assert ("second = 22" in pair.says(), "third = 33" in pair.says()) == (
        edited != "nb",
        edited != "py",
    )
    assert pair.outputs()["print(first)"] == outputs["print(first)"]
    assert pair.project.git("status", "--short").stdout == ""


def test_the_same_cell_edited_in_both_halves_is_refused_until_a_person_decides(pair):
    pair.edit_py("second = 2", "second = 'py'")
    pair.edit_nb("second = 2", "second = 'nb'")
    before = pair.py.read_bytes(), pair.nb.read_bytes()
    for _ in range(2):
        pair.project.git("add", "notebooks")
        code, said = try_commit(pair)
        assert code
        assert "second = 'py'" in said
        assert (pair.py.read_bytes(), pair.nb.read_bytes()) == before
    pair.edit_py("second = 'py'", "second = 'nb'")
    commit(pair.project, add=["notebooks"], times=1)
    assert_history_is_clean(pair.project)


def test_what_is_staged_counts_and_not_what_is_on_disk(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.project.git("add", pair.both[0])
    pair.sync()
    code, said = try_commit(pair)
    assert code
    assert f'lab sync; git add "{pair.both[0]}" "{pair.both[1]}"' in said
    pair.project.git("add", pair.both[1])
    assert try_commit(pair)[0] == 0
    assert_history_is_clean(pair.project)


@pytest.mark.parametrize("half", [0, 1])
def test_a_half_deleted_or_renamed_alone_is_refused_and_a_whole_pair_is_not(pair, half):
    gone, other = pair.both[half], pair.both[1 - half]
    pair.project.git("rm", "-q", gone)
    code, said = try_commit(pair)
    assert code
    assert "git restore -SW" in said
    assert not (pair.project.root / gone).exists()
    pair.project.git("rm", "-q", other)
    assert try_commit(pair)[0] == 0
    pair.project.git("reset", "-q", "--hard", "HEAD~1")
    moved = Pair(pair.project, "notebooks/02 moved")
    pair.project.git("mv", pair.both[half], moved.both[half])
    assert try_commit(pair)[0]
    assert (pair.project.root / other).exists()


def test_a_renamed_and_edited_pair_is_committed(pair):
    outputs = pair.execute()
    pair.project.git("add", "-A")
    moved = Pair(pair.project, "notebooks/02 moved")
    for old, new in zip(pair.both, moved.both, strict=True):
        pair.project.git("mv", old, new)
    moved.edit_py("second = 2", "second = 22")
    commit(pair.project, add=["notebooks"])
    assert_history_is_clean(pair.project)
    assert moved.outputs()["print(first)"] == outputs["print(first)"]


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("half", [0, 1])
def test_a_new_half_alone_needs_its_other_half(pair, half, tracked):
    new = Pair(pair.project, "notebooks/实验 2").make()
    (pair.project.root / new.both[1 - half]).unlink()
    if tracked:
        pair.project.git("add", "-N", new.both[half])
    pair.project.git("add", new.both[half])
    code, said = try_commit(pair)
    assert code
    assert new.both[1 - half] in said
    pair.project.git("add", *new.both)
    assert try_commit(pair)[0] == 0
    assert_history_is_clean(pair.project)


def test_a_module_beside_the_notebooks_is_no_half(pair):
    (pair.project.root / "notebooks" / "tools.py").write_text("x = 1\n")
    assert pair.sync() == ""
    commit(pair.project, add=["notebooks"], times=1)


def stage_blob(pair, path, data):
    """Stage bytes as they are, as a clone without the filter does."""
    command = ["git", "hash-object", "-w", "--stdin", "--no-filters"]
    root = pair.project.root
    sha = subprocess.run(command, cwd=root, input=data, capture_output=True, check=True).stdout
    info = f"100644,{sha.decode().strip()},{path}"
    pair.project.git("update-index", "--add", "--cacheinfo", info)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("outputs", "git add --renormalize"),
        ("tag", "git add --renormalize"),
        ("count", "git add --renormalize"),
        ("volatile", "git add --renormalize"),
        ("spacing", "git add --renormalize"),
        ("invalid", "no notebook"),
        ("markers", "conflict markers"),
        ("contradiction", "nbstripout"),
        ("odd tags", "nbstripout"),
        ("large", "over 1 MB without its outputs"),
        ("large outputs", "git add --renormalize"),
    ],
)
def test_an_unclean_blob_is_refused_with_what_to_type(pair, harm, said):
    nb = pair.read()
    cell = nb["cells"][1]
    if harm in ("outputs", "tag", "large outputs"):
        text = "x" * (2_000_000 if harm == "large outputs" else 1)
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [text]}]
    if harm == "tag":
        cell["metadata"]["tags"] = ["keep_output"]
    if harm == "count":
        cell["execution_count"] = 3
    if harm == "volatile":
        cell["metadata"]["collapsed"] = True
    if harm == "contradiction":
        cell["metadata"] = {"keep_output": False, "tags": ["keep_output"]}
    if harm == "odd tags":
        cell["metadata"]["tags"] = 5
    if harm == "large":
        nb["cells"][0]["attachments"] = {"pasted.png": {"image/png": "iVBO" * 300_000}}
    data = json.dumps(nb, indent=4 if harm == "spacing" else 1, sort_keys=True) + "\n"
    if harm == "invalid":
        data = data[:-5]
    if harm == "markers":
        data = f"<<<<<<< ours\n{data}=======\n{data}>>>>>>> theirs\n"
    stage_blob(pair, pair.both[1], data.encode())
    done = lab(pair.project, "guard", "--staged")
    assert done.returncode == 1
    assert said in done.stdout
    assert pair.both[1] in done.stdout
    assert lab(pair.project, "guard", "--all").returncode == 1
    assert try_commit(pair)[0] == 1


def test_a_partly_staged_notebook_is_judged_by_its_staged_part(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    pair.project.git("add", "notebooks")
    pair.edit_py("third = 3", "third = 33")
    pair.sync()
    outputs = pair.execute()
    assert try_commit(pair)[0] == 0
    assert_history_is_clean(pair.project)
    assert pair.outputs() == outputs
    assert "third = 33" in pair.says()


def test_add_p_of_both_halves_works(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    outputs = pair.execute()
    pair.project.git("add", "-p", input="y\ny\ny\ny\n")
    assert try_commit(pair)[0] == 0
    assert_history_is_clean(pair.project)
    assert pair.outputs() == outputs


def test_commits_by_pathspec_and_with_a(pair):
    pair.edit_py("second = 2", "second = 22")
    code, said = try_commit(pair, "--", pair.both[0])
    assert code
    assert "say the same" in said
    assert try_commit(pair, "--", *pair.both)[0] == 0
    pair.edit_nb("third = 3", "third = 33")
    assert try_commit(pair, "-a")[0]
    assert try_commit(pair, "-a")[0] == 0
    assert_history_is_clean(pair.project)
    assert {"second = 22", "third = 33"} <= set(pair.says())


def test_an_unrelated_commit_passes_while_a_notebook_is_edited_and_executed(pair):
    pair.edit_nb("second = 2", "second = 22")
    outputs = pair.execute()
    before = pair.nb.read_bytes(), pair.py.read_bytes()
    (pair.project.root / "other.txt").write_text("x\n")
    pair.project.git("add", "other.txt")
    assert try_commit(pair)[0] == 0
    assert (pair.nb.read_bytes(), pair.py.read_bytes()) == before
    assert pair.outputs() == outputs


def test_a_cherry_picked_dirty_commit_is_found_by_doctor_whose_command_mends_it(pair):
    project = pair.project
    project.git("switch", "-q", "-c", "colleague")
    nb = pair.read()
    nb["cells"][1]["source"] = ["first = 11"]
    nb["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["x"]}]
    stage_blob(pair, pair.both[1], json.dumps(nb).encode())
    project.git("commit", "-q", "-m", "dirty", "--no-verify")
    project.git("switch", "-q", "-f", "main")
    (project.root / "other.txt").write_text("x\n")
    project.git("add", "other.txt")
    project.git("commit", "-q", "-m", "other")
    project.git("cherry-pick", "colleague")
    (project.root / "another.txt").write_text("x\n")
    project.git("add", "another.txt")
    assert try_commit(pair)[0] == 0, "an unrelated commit goes on"
    assert lab(project, "guard", "--all").returncode == 1
    code = f"from pathlib import Path; from {project.package}.lab import guard"
    code += "; print(*guard.dirty_history(Path.cwd())[0], sep='\\n')"
    done = project.python("-c", code, check=True)
    command = done.stdout.splitlines()[1]
    tool = project.root.parent / "bin" / "lab"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {project.package}.lab.cli "$@"\n')
    tool.chmod(0o755)
    path = f"{tool.parent}:{project.env['PATH']}"
    project.run("sh", "-c", command, env={"PATH": path}, check=True)
    assert_history_is_clean(project)
    assert "first = 11" in pair.says()
    assert lab(project, "guard", "--all").returncode == 0


@pytest.mark.parametrize("setup", ["guard alone", "nothing"])
def test_a_clone_without_set_up_does_not_get_outputs_past_the_guard(pair, tmp_path, setup):
    clone = tmp_path / "clone" / pair.project.root.name
    pair.project.git("clone", "-q", str(pair.project.root), str(clone))
    theirs = Pair(type(pair.project)(clone))
    if setup == "guard alone":
        hook = ".git/hooks/pre-commit"
        shutil.copy(pair.project.root / hook, clone / hook)
    theirs.edit_nb("second = 2", "second = 22")
    theirs.sync()
    outputs = theirs.execute()
    theirs.project.git("add", "-A")
    code, _ = try_commit(theirs)
    assert (code == 1) == (setup == "guard alone")
    assert theirs.outputs() == outputs
    done = lab(theirs.project, "guard", "--all")
    assert done.returncode == 1
    assert "lab setup" in done.stdout


def test_markers_left_in_a_script_are_refused(pair):
    pair.edit_py("second = 2", "<<<<<<< ours\nsecond = 2\n=======\nsecond = 3\n>>>>>>> theirs")
    pair.project.git("add", "-A")
    code, said = try_commit(pair)
    assert code
    assert "conflict markers" in said


@pytest.mark.parametrize("days", [0, 400])
@pytest.mark.parametrize("told", ["PRE_COMMIT_HOME", "XDG_CACHE_HOME"])
def test_only_a_patch_of_this_commit_keeps_the_guard_from_writing(
    pair, tmp_path, monkeypatch, days, told
):
    monkeypatch.delenv("PRE_COMMIT_HOME", raising=False)
    monkeypatch.setenv(told, str(tmp_path))  # where pre-commit leaves its patches
    folder = tmp_path / ("pre-commit" if told == "XDG_CACHE_HOME" else "")
    folder.mkdir(exist_ok=True)
    patch = folder / f"patch1600000000-{os.getppid()}"  # numbers of processes come again
    patch.touch()
    os.utime(patch, (time.time() - days * 86400,) * 2)
    pair.edit_py("first = 1", "first = 11")
    pair.project.git("add", "notebooks")
    said = lab(pair.project, "guard", "--staged", "--fix").stdout
    assert ("nothing is written" in said, "first = 11" in json.dumps(pair.read())) == (
        not days,
        bool(days),
    )


def test_what_only_nbstripout_would_strip_is_refused(pair, monkeypatch):
    monkeypatch.setattr("nbstripout.strip_output", lambda nb, *_, **__: {**nb, "cells": []})
    pair.edit_nb("second = 2", "second = 22")
    pair.sync()
    pair.project.git("add", "notebooks")
    done = lab(pair.project, "guard", "--staged")
    assert done.returncode == 1
    assert f'nbstripout --keep-id "{pair.both[1]}"' in done.stdout


def test_a_script_in_another_coding_is_refused_in_words(pair):
    stage_blob(pair, pair.both[0], pair.py.read_bytes() + "# é\n".encode("latin-1"))
    done = lab(pair.project, "guard", "--all")
    assert done.returncode == 1
    assert "cannot be compared: 'utf-8' codec" in done.stdout


def test_a_heading_that_jupytext_reads_as_the_command_beside_it_is_not_in_step(pair):
    pair.edit_nb("Some prose.", "ls")
    pair.sync()
    commit(pair.project, add=["notebooks"])
    stage_blob(pair, pair.both[0], pair.py.read_bytes().replace(b"# ls", b"# # ls"))
    assert lab(pair.project, "guard", "--all").returncode == 1


def test_a_link_to_a_notebook_is_not_judged_as_one(pair):
    (pair.project.root / "docs" / "it.ipynb").symlink_to(pair.nb)
    commit(pair.project, add=["docs"], times=1)
    assert lab(pair.project, "guard", "--all").returncode == 0


def test_what_no_sync_mends_in_the_last_commit_has_a_remedy_of_its_own(pair):
    pair.nb.write_text('{"cells": [')
    pair.project.git("commit", "-q", "-a", "-m", "broken", "--no-verify")
    code = f"from pathlib import Path; from {pair.project.package}.lab import guard"
    done = pair.project.python("-c", f"{code}; print(guard.dirty_history(Path.cwd()))", check=True)
    assert "save it in Jupyter again" in done.stdout
    assert "git commit" not in done.stdout


def test_files_that_pre_commit_names_are_judged_though_nothing_is_staged(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.project.git("commit", "-q", "-a", "-m", "half", "--no-verify")
    assert lab(pair.project, "guard", "--staged").returncode == 0
    assert lab(pair.project, "guard", "--staged", *pair.both).returncode == 1
