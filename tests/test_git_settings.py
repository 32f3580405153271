"""People's own git: their settings, their kinds of repository, their editors."""

import json
import sysconfig
import venv
from pathlib import Path

import pytest
from notebook_pairs import Pair, commit
from test_clean_diffs_places import Hooked, hooked, pair, plain_git  # noqa: F401 (fixtures)
from test_records_odd import LIBRARY, with_library  # noqa: F401 (fixtures)
from test_verify_attacks import verify
from test_verify_causes import bare, interpreter, train  # noqa: F401 (fixtures)

pytestmark = pytest.mark.slow


def git_line(project):
    """Return what `lab doctor` finds of git, and what it says mends it."""
    rows = json.loads(project.lab("doctor", "--json").stdout)
    return [row for row in rows if row["check"] == "git"]


def with_environment(root):
    """Give a checkout an environment of its own, set it up, and hear no complaint of git."""
    venv.create(root / ".venv", with_pip=False)
    (site,) = (root / ".venv").glob("lib/python*/site-packages")
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    own = Hooked(root)
    module = f"{own.package}.lab.cli"
    for command in ("setup", "doctor"):
        done = own.run(root / ".venv" / "bin" / "python", "-m", module, command)
        assert "which is gone" not in done.stdout
    return own


def test_a_linked_worktree_with_an_environment_of_its_own_commits_anywhere(pair, tmp_path):  # noqa: F811
    tree = tmp_path / "tree"
    plain_git(pair.project.root, "worktree", "add", "-q", str(tree))
    here = Pair(with_environment(tree), "notebooks/02_here").make()
    plain_git(tree, "add", "notebooks")
    plain_git(tree, "commit", "-m", "from an editor")
    assert here.name + ".ipynb" in plain_git(tree, "ls-files", "notebooks").stdout


def test_a_space_in_the_projects_path_hides_no_environment_from_doctor(pair, tmp_path):  # noqa: F811
    with_environment(pair.project.root.rename(tmp_path / "my project"))


def test_doctor_names_another_filter_that_git_prefers(pair):  # noqa: F811
    assert [row["state"] for row in git_line(pair.project)] == ["ok"]
    pair.project.python("-m", "nbstripout", "--install", check=True)
    (row,) = git_line(pair.project)
    assert row["state"] == "mend"
    assert "nbstripout" in row["found"][0]
    pair.project.run("sh", "-c", row["mend"], check=True)
    assert [row["state"] for row in git_line(pair.project)] == ["ok"]


def test_a_hooks_path_that_is_empty_is_named(pair):  # noqa: F811
    pair.project.git("config", "core.hooksPath", "")
    done = pair.project.lab("setup")
    assert done.returncode == 1
    assert "core.hooksPath is set" in done.stdout


def test_an_editor_that_takes_paths_literally_needs_two_commits_too(pair):  # noqa: F811
    """Magit calls `git --literal-pathspecs`, and hooks inherit it."""
    pair.edit_nb("second = 2", "second   =   22")
    pair.sync()
    literal = {"GIT_LITERAL_PATHSPECS": "1"}
    for expected in (1, 0):
        pair.project.git("add", "-u", env=literal)
        done = pair.project.git("commit", "-qm", "work", env=literal, check=False)
        assert done.returncode == expected, done.stdout + done.stderr
    assert "second = 22" in pair.says()


@pytest.fixture
def signed(pair, tmp_path):  # noqa: F811
    """Give a pair whose commits are signed, and whose git shows it in every log."""
    key = tmp_path / "key"
    pair.project.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key, check=True)
    (tmp_path / "allowed").write_text(f"ada@example.org {key.with_suffix('.pub').read_text()}")
    for name, value in {
        "gpg.format": "ssh", "user.signingkey": key, "commit.gpgsign": "true",
        "gpg.ssh.allowedSignersFile": tmp_path / "allowed", "log.showSignature": "true",
    }.items():  # fmt: skip
        pair.project.git("config", name, str(value))
    pair.edit_py("third = 3", "third = 33")
    pair.sync()
    commit(pair.project, add=["notebooks"])
    assert "Good" in pair.project.git("log", "-1").stdout
    return pair


def test_signatures_in_the_log_hide_no_stash_from_the_sync(signed):
    signed.edit_py("second = 2", "second = 22")
    signed.sync()
    signed.project.git("stash", "-q")
    signed.edit_py("second = 2", "second = 22")
    signed.edit_py("first = 1", "first = 11")
    signed.sync(check=False)
    assert "second = 22" in signed.py.read_text()


def test_a_signature_is_not_the_author(signed):
    Pair(signed.project, "notebooks/02_signed").make()
    commit(signed.project, add=["notebooks"])
    code = f"""
from pathlib import Path
from {signed.project.package}.lab import report
print(report._facts(Path.cwd(), Path.cwd() / "notebooks" / "02_signed", None)[0]["value"])
"""
    assert signed.project.python("-c", code, check=True).stdout.strip() == "Ada"


def test_a_record_card_is_committed_whole_whatever_is_ignored(repository, tmp_path):
    (tmp_path / "ignore").write_text("*.patch\n*.json\n*.jsonl\n")
    repository.git("config", "core.excludesFile", str(tmp_path / "ignore"))
    card = repository.root / "reports" / "02_mine" / "run"
    card.mkdir(parents=True)
    for name in ("code.patch", "config.json", "metrics.jsonl"):
        (card / name).touch()
    (card.parent / "report.html").touch()
    repository.git("add", "-A")
    staged = repository.git("diff", "--cached", "--name-only").stdout.split()
    assert [Path(name).name for name in staged] == ["code.patch", "config.json", "metrics.jsonl"]


def test_how_git_shows_a_diff_changes_no_verdict_on_a_submodule(with_library):  # noqa: F811
    (with_library.root / "lib" / "data.txt").write_text("4")
    train(with_library, loss=LIBRARY)
    assert verify(with_library)[1]["verdict"] == "identical"
    for name, value in {"diff.noprefix": "true", "core.abbrev": "30", "color.ui": "always",
                        "diff.external": "echo", "diff.context": "9"}.items():  # fmt: skip
        with_library.git("-C", "lib", "config", name, value)
    assert not verify(with_library)[1]["causes"]
