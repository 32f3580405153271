"""`lab sync` interrupted, and with somebody else at work in the middle of it: no edit is lost."""

import sys
import textwrap

import pytest

pytestmark = pytest.mark.slow


def meanwhile(pair, tmp_path, moment, happens):
    """Return an environment in which git, when first asked to do `moment`, lets `happens` first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "happens").write_text(happens)
    shim = folder / "git"
    shim.write_text(
        f'#!/bin/sh\nPATH="${{PATH#*:}}"\ncase " $* " in *" {moment} "*)\n'
        f'mv "{folder}/happens" "{folder}/now" 2>/dev/null && sh -e "{folder}/now" >&2;; esac\n'
        'exec git "$@"\n'
    )
    shim.chmod(0o755)
    return {"PATH": f"{folder}:{pair.project.env['PATH']}"}


@pytest.mark.parametrize("moment", ["log", "merge-file", "rev-parse"])
def test_an_edit_saved_while_sync_is_at_work_is_carried_over_too(pair, tmp_path, moment):
    pair.execute()
    pair.edit_py("second = 2", "second = 22")
    env = meanwhile(pair, tmp_path, moment, "sed -i 's/^third = 3$/third = 33/' notebooks/*.py")
    pair.project.lab("sync", env=env, check=True)
    assert (tmp_path / "bin" / "now").exists()
    assert {"second = 22", "third = 33"} <= set(pair.says())
    assert pair.outputs()["print(first)"] == "run 1: print(first)\n"


@pytest.mark.parametrize("moment", ["log", "merge-file", "rev-parse"])
def test_a_whole_sync_in_the_middle_of_another_does_no_harm(pair, tmp_path, moment):
    pair.execute()
    pair.edit_py("second = 2", "second = 22")
    again = f"{sys.executable} -m {pair.project.package}.lab.cli sync"
    env = meanwhile(pair, tmp_path, moment, again)
    pair.project.lab("sync", env=env, check=True)
    assert (tmp_path / "bin" / "now").exists()
    assert "second = 22" in pair.says()
    pair.sync("--undo")
    assert "second = 22" in pair.py.read_text()
    assert pair.outputs()["second = 2"] == "run 1: second = 2\n"


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_sync_that_is_killed_between_its_files_loses_no_edit(pair, written):
    pair.execute()
    pair.edit_py("second = 2", "second = 22")
    pair.edit_nb("third = 3", "third = 33")
    module = next(pair.project.root.glob("src/*/lab/project.py"))
    whole = module.read_text()
    deadly = "os.replace(scratch, path)"
    kill = f"KILL.append(path) or len(KILL) > {written} and os.kill(os.getpid(), 9); {deadly}"
    if written == 2:  # after both, before anything else
        kill = f"{deadly}; KILL.append(path) or len(KILL) > 1 and os.kill(os.getpid(), 9)"
    module.write_text(whole.replace(deadly, kill) + "\n\nKILL = []\n")
    assert pair.project.lab("sync").returncode == -9
    module.write_text(whole)
    pair.sync()
    assert {"second = 22", "third = 33"} <= set(pair.says())
    assert pair.outputs()["print(first)"] == "run 1: print(first)\n"
    assert pair.sync() == ""


def test_an_undo_that_is_killed_between_its_files_goes_on(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.edit_nb("third = 3", "third = 33")
    before = pair.py.read_bytes(), pair.nb.read_bytes()
    pair.sync()
    code = f"""
        import os
        from {pair.project.package}.lab import cli, pairs
        written, write = [], pairs.write_whole
        def once(path, content):
            if written:
                os.kill(os.getpid(), 9)
            written.append(write(path, content))
        pairs.write_whole = once
        cli.main(["sync", "--undo"])
    """
    done = pair.project.python("-c", textwrap.dedent(code))
    assert done.returncode == -9
    pair.sync("--undo")
    assert (pair.py.read_bytes(), pair.nb.read_bytes()) == before
