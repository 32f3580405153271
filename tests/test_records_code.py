"""The code of a run: captured without touching anything, restored exactly as it was."""

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

CAPTURE = """
import json, sys
from pathlib import Path
from {package}.lab import code
described, patch = code.capture(Path.cwd(), sys.argv[1:])
Path({out!r}, "code.json").write_text(json.dumps(described))
Path({out!r}, "code.patch").write_bytes(patch)
"""
RESTORE = """
import json
from pathlib import Path
from {package}.lab import worktree
out = Path({out!r})
described = json.loads((out / "code.json").read_text())
worktree.restore(Path.cwd(), described, (out / "code.patch").read_bytes(), out / "tree")
"""


def capture(project, out, *argv):
    out.mkdir(exist_ok=True)
    script = CAPTURE.format(package=project.package, out=str(out))
    project.python("-c", script, *argv, check=True)
    return json.loads((out / "code.json").read_text()), (out / "code.patch").read_bytes()


def restore(project, out, check=True):
    script = RESTORE.format(package=project.package, out=str(out))
    done = project.python("-c", script)
    assert not check or done.returncode == 0, done.stderr
    return done


def snapshot(root):
    """Every file but git's own: kind, mode and contents."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name.split("/")[0] == ".git" or "__pycache__" in name:
            continue
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_file():
            found[name] = (path.stat().st_mode & 0o100, path.read_bytes())
    return found


def spoil(root):
    """All that a working tree can hold at once."""
    run = lambda *argv: subprocess.run(["git", "-C", str(root), *argv], check=True)  # noqa: E731
    (root / "train.py").write_text((root / "train.py").read_text() + "# unstaged\n")
    (root / "staged.py").write_text("staged = 1\n")
    run("add", "staged.py")
    (root / "staged.py").write_text("staged = 2  # and changed again\n")
    (root / "a name with spaces, ü and 数据.txt").write_text("Grüße\n", encoding="utf-8")
    (root / "binary.bin").write_bytes(bytes(range(256)) * 20)
    (root / "no newline").write_bytes(b"at the end\r\nof lines")
    (root / "empty").touch()
    run("mv", "LICENSE", "renamed licence")
    (root / "Dockerfile").unlink()
    (root / "script.sh").write_text("#!/bin/sh\n")
    (root / "script.sh").chmod(0o755)
    (root / "windows.cmd").write_bytes(b"@echo off\r\n")
    (root / "windows.cmd").chmod(0o755)
    (root / "pyproject.toml").chmod(0o755)
    (root / "link").symlink_to("train.py")
    (root / "folder").mkdir()
    (root / "folder" / "deep.py").write_text("x = 1\n")
    (root / "README.md").unlink()
    (root / "README.md").mkdir()
    (root / "README.md" / "became a folder").write_text("yes\n")


def test_the_working_tree_is_restored_exactly(repository, tmp_path):
    spoil(repository.root)
    before = snapshot(repository.root)
    status = repository.git("status", "--porcelain", "-z").stdout
    index = (repository.root / ".git" / "index").read_bytes()
    objects = sorted((repository.root / ".git" / "objects").rglob("*"))
    described, _ = capture(repository, tmp_path / "out", "--epochs", "2")
    assert (repository.root / ".git" / "index").read_bytes() == index
    assert sorted((repository.root / ".git" / "objects").rglob("*")) == objects
    assert snapshot(repository.root) == before
    assert repository.git("status", "--porcelain", "-z").stdout == status
    assert described["dirty"]
    assert described["argv"] == ["--epochs", "2"]
    restore(repository, tmp_path / "out")
    assert snapshot(tmp_path / "out" / "tree") == before
    assert snapshot(repository.root) == before
    assert repository.git("status", "--porcelain", "-z").stdout == status


def test_a_clean_tree_needs_no_patch(repository, tmp_path):
    described, patch = capture(repository, tmp_path / "out")
    assert not patch
    assert not described["dirty"]
    assert described["commit"] == described["base"]
    assert described["branch"] == "main"
    assert described["remote"] is None


def test_files_that_git_was_told_not_to_look_at_are_captured(repository, tmp_path):
    repository.git("update-index", "--assume-unchanged", "train.py")
    repository.git("update-index", "--skip-worktree", "pyproject.toml")
    for name in ("train.py", "pyproject.toml"):
        path = repository.root / name
        path.write_text(path.read_text() + "# hidden from git\n")
    _, patch = capture(repository, tmp_path / "out")
    assert patch.count(b"+# hidden from git") == 2


def test_a_users_git_settings_do_not_change_the_patch(repository, tmp_path):
    spoil(repository.root)
    _, patch = capture(repository, tmp_path / "one")
    for key, value in {"diff.noprefix": "true", "diff.mnemonicPrefix": "true", "diff.context": "0",
                       "color.ui": "always", "diff.algorithm": "patience", "diff.renames": "false",
                       "core.quotePath": "true", "diff.external": "false",
                       "apply.whitespace": "fix"}.items():  # fmt: skip
        repository.git("config", key, value)
    described, again = capture(repository, tmp_path / "two")
    assert again == patch
    restore(repository, tmp_path / "two")
    assert snapshot(tmp_path / "two" / "tree") == snapshot(repository.root)
    assert described["patch_sha256"]


def test_a_merge_that_left_reports_open_is_recorded_whole(repository, tmp_path):
    page = repository.root / "reports" / "01_baseline" / "README.md"
    page.parent.mkdir(parents=True)
    for branch in ("main", "theirs", "mine"):
        if branch != "main":
            repository.git("switch", "-q", "-c", branch, "main")
        page.write_text(f"{branch}\n")
        repository.git("add", "-A")
        repository.git("commit", "-qm", branch, "--no-verify")
    assert repository.git("merge", "theirs", check=False).returncode == 1
    described, _ = capture(repository, tmp_path / "out")
    assert described["base"]
    assert "warning" not in described


def test_a_large_untracked_file_is_listed_with_its_hash(repository, tmp_path):
    (repository.root / "table.npy").write_bytes(os.urandom(100_001))
    (repository.root / "small.npy").write_bytes(os.urandom(1000))
    described, patch = capture(repository, tmp_path / "out")
    assert [item["path"] for item in described["listed"]] == ["table.npy"]
    assert described["listed"][0]["bytes"] == 100_001
    assert len(patch) < 3000


@pytest.mark.slow
def test_results_of_no_end_leave_room_for_code_that_git_does_not_know(repository, tmp_path):
    (repository.root / "predictions").mkdir()
    for number in range(60):
        (repository.root / "predictions" / f"{number:02}.bin").write_bytes(os.urandom(100_000))
    (repository.root / "src" / repository.package / "wide.py").write_text("WIDTH = 300\n" * 500)
    described, patch = capture(repository, tmp_path / "out")
    assert "too much untracked" in {item["why"] for item in described["listed"]}
    assert not [item for item in described["listed"] if item["path"].endswith(".py")]
    assert patch.count(b"+WIDTH = 300") == 500


def test_home_folders_become_a_tilde(repository, tmp_path):
    home = {"HOME": str(tmp_path)}
    script = CAPTURE.format(package=repository.package, out=str(tmp_path))
    repository.python("-c", script, f"--data-dir={tmp_path}/data", env=home, check=True)
    text = (tmp_path / "code.json").read_text()
    assert str(tmp_path) not in text
    assert "--data-dir=~/data" in text


@pytest.mark.parametrize("how", ["squash", "rebase", "amend", "fast-forward"])
def test_a_branch_that_is_gone_is_restored_in_a_fresh_clone(repository, tmp_path, how):
    remote, out = tmp_path / "remote.git", tmp_path / "out"
    subprocess.run(["git", "clone", "-q", "--bare", repository.root, remote], check=True)
    repository.git("remote", "add", "origin", remote)
    repository.git("fetch", "-q", "origin")
    repository.git("remote", "set-head", "origin", "-a")
    repository.git("switch", "-qc", "feature")
    for number in range(2):
        (repository.root / "new.py").write_text(f"value = {number}\n")
        repository.git("add", "-A")
        repository.git("commit", "-qm", f"step {number}", "--no-verify")
    (repository.root / "loose.py").write_text("untracked = True\n")
    wanted = snapshot(repository.root)
    described, _ = capture(repository, out)
    (repository.root / "loose.py").unlink()
    main = repository.git("rev-parse", "main").stdout.strip()
    assert described["base"] == main
    assert described["commit"] == repository.git("rev-parse", "HEAD").stdout.strip() != main
    if how == "amend":
        repository.git("commit", "--amend", "-qm", "better", "--no-verify")
    repository.git("switch", "-q", "main")
    (repository.root / "other.py").write_text("of a colleague\n")
    if how != "fast-forward":
        repository.git("add", "-A")
        repository.git("commit", "-qm", "meanwhile", "--no-verify")
    if how == "squash":
        repository.git("merge", "-q", "--squash", "feature")
        repository.git("commit", "-qm", "all at once", "--no-verify")
    elif how == "rebase":
        repository.git("rebase", "-q", "main", "feature")
        repository.git("switch", "-q", "main")
        repository.git("merge", "-q", "feature")
    else:
        repository.git("merge", "-q", "feature", "-m", "merge")
    repository.git("push", "-q", "origin", "main")
    repository.git("branch", "-D", "feature")
    clone = type(repository)(tmp_path / "clone")
    subprocess.run(["git", "clone", "-q", remote, clone.root], check=True)
    restore(clone, out)
    assert snapshot(out / "tree") == wanted


def test_submodules_are_named_and_restored_at_their_commit(repository, tmp_path):
    library = tmp_path / "library"
    run = lambda *argv: repository.run("git", *argv, cwd=library, check=True)  # noqa: E731
    library.mkdir()
    run("init", "-q")
    (library / "helper.py").write_text("VALUE = 1\n")
    run("add", "-A")
    run("commit", "-qm", "library")
    allow = ("-c", "protocol.file.allow=always")
    repository.git(*allow, "submodule", "--quiet", "add", library, "third party")
    repository.git("commit", "-qm", "submodule", "--no-verify")
    module = repository.root / "third party"
    (module / "helper.py").write_text("VALUE = 2\n")
    repository.run("git", "commit", "-qam", "further", cwd=module, check=True)
    head = repository.run("git", "rev-parse", "HEAD", cwd=module).stdout.strip()
    described, _ = capture(repository, tmp_path / "clean")
    assert described["submodules"] == [{"path": "third party", "commit": head, "changes": None}]
    (module / "helper.py").write_text("VALUE = 3\n")
    described, _ = capture(repository, tmp_path / "dirty")
    changes = described["submodules"][0]["changes"]
    assert changes
    assert repository.module("lab.worktree").differences(repository.root, described) == []
    (module / "new.py").write_text("VALUE = 4\n")
    described, _ = capture(repository, tmp_path / "more")
    assert described["submodules"][0]["changes"] not in (None, changes)
    restore(repository, tmp_path / "clean")
    restored = tmp_path / "clean" / "tree" / "third party" / "helper.py"
    assert restored.read_text() == "VALUE = 2\n"
    repository.git("submodule", "deinit", "-f", "third party")
    done = restore(repository, tmp_path / "dirty", check=False)
    assert "git submodule update --init" in done.stderr


def test_a_repository_within_the_project_is_named(repository, tmp_path):
    inner = repository.root / "inner"
    inner.mkdir()
    repository.run("git", "init", "-q", cwd=inner, check=True)
    (inner / "x.py").write_text("x = 1\n")
    described, _ = capture(repository, tmp_path / "out")
    assert [module["path"] for module in described["submodules"]] == ["inner"]
    assert "warning" not in described


def test_what_lies_behind_a_symbolic_link_is_listed(repository, tmp_path):
    (tmp_path / "shared.py").write_text("x = 1\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "inside.py").write_text("y = 1\n")
    (repository.root / "linked.py").symlink_to(tmp_path / "shared.py")
    (repository.root / "linked").symlink_to(tmp_path / "package")
    (repository.root / "within").symlink_to("src")
    (repository.root / "again.py").symlink_to("train.py")
    described, _ = capture(repository, tmp_path / "out")
    assert {item["path"] for item in described["listed"]} == {"linked.py", "linked/inside.py"}
    (tmp_path / "shared.py").write_text("x = 2\n")
    assert capture(repository, tmp_path / "out")[0]["sources"] != described["sources"]


def test_the_startup_file_of_python_itself_is_no_code_from_elsewhere(repository, tmp_path):
    """Debian's, Ubuntu's and Homebrew's Python has a sitecustomize.py beside its own modules."""
    elsewhere = tmp_path / "site-packages" / "sitecustomize.py"
    elsewhere.parent.mkdir()
    elsewhere.write_text("x = 1\n")
    listed = []
    for file in (Path(sysconfig.get_path("stdlib"), "this.py"), elsewhere):
        script = f"""
import sys
from pathlib import Path
from types import SimpleNamespace
from {repository.package}.lab import code
sys.modules["sitecustomize"] = SimpleNamespace(__file__={str(file)!r})
print([item["path"] for item in code.capture(Path.cwd(), [])[0]["listed"]])
"""
        listed.append(repository.python("-c", script, check=True).stdout)
    assert "this.py" not in listed[0]
    assert "sitecustomize.py" in listed[1]


@pytest.mark.parametrize("state", ["no repository", "no commit", "within another", "no git"])
def test_without_a_commit_a_warning_says_that_it_cannot_be_verified(project, tmp_path, state):
    env = {"GIT_CEILING_DIRECTORIES": str(project.root.parent)}
    if state == "no commit":
        project.git("init", "-q")
    elif state == "within another":
        project.git("init", "-q", cwd=project.root.parent)
        env = {}
    elif state == "no git":
        env["PATH"] = str(tmp_path)
    script = CAPTURE.format(package=project.package, out=str(tmp_path))
    done = project.python("-c", script, env=env)
    assert done.returncode == 0, done.stderr
    described = json.loads((tmp_path / "code.json").read_text())
    assert "lab verify" in described["warning"]
    assert described["commit"] is None


def test_called_from_a_git_hook_it_captures_the_project_all_the_same(repository, tmp_path):
    (repository.root / "new.py").write_text("x = 1\n")
    script = CAPTURE.format(package=repository.package, out=str(tmp_path))
    env = {"GIT_INDEX_FILE": str(tmp_path / "elsewhere"), "GIT_DIR": str(tmp_path)}
    repository.python("-c", script, env=env, check=True)
    assert b"new.py" in (tmp_path / "code.patch").read_bytes()


def test_a_patch_that_was_edited_is_refused(repository, tmp_path):
    (repository.root / "new.py").write_text("x = 1\n")
    capture(repository, tmp_path)
    patch = tmp_path / "code.patch"
    patch.write_bytes(patch.read_bytes().replace(b"+x = 1", b"+x = 2"))
    assert "code.patch was changed" in restore(repository, tmp_path, check=False).stderr


def test_a_missing_commit_is_named_with_where_to_fetch_it(repository, tmp_path):
    described, _ = capture(repository, tmp_path)
    described |= {"base": "1" * 40, "remote": "https://example.org/lab.git"}
    Path(tmp_path, "code.json").write_text(json.dumps(described))
    error = restore(repository, tmp_path, check=False).stderr
    assert "111111111111" in error
    assert "https://example.org/lab.git" in error


def test_a_large_file_that_git_knows_is_in_the_patch(repository, tmp_path):
    table = repository.root / "table.csv"
    table.write_text("1,2\n" * 30_000)
    repository.git("add", "-A")
    repository.git("commit", "-qm", "table", "--no-verify")
    table.write_text("3,4\n" * 30_000)
    described, patch = capture(repository, tmp_path / "out")
    assert described["listed"] == []
    assert patch.count(b"+3,4") == 30_000


def test_the_base_is_on_origins_main_where_nothing_says_its_default_branch(repository, tmp_path):
    remote = tmp_path / "remote.git"
    subprocess.run(["git", "clone", "-q", "--bare", repository.root, remote], check=True)
    repository.git("remote", "add", "backup", tmp_path / "backup.git")
    repository.git("remote", "add", "origin", remote)
    repository.git("fetch", "-q", "origin")
    repository.git("commit", "-qm", "not pushed", "--allow-empty", "--no-verify")
    described, _ = capture(repository, tmp_path / "out")
    assert described["base"] == repository.git("rev-parse", "HEAD~1").stdout.strip()
    assert described["remote"] == str(remote)


def test_neither_hooks_nor_settings_of_ones_own_meet_a_record(repository, tmp_path):
    for name in ("post-index-change", "post-checkout"):
        hook = repository.root / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\necho {name} >>{tmp_path}/ran\n")
        hook.chmod(0o755)
    for setting in ("core.safecrlf=true", "core.autocrlf=input", "core.splitIndex=true"):
        repository.git("config", *setting.split("="))
    (repository.root / "windows.txt").write_bytes(b"a line\r\n")
    before = sorted((repository.root / ".git").iterdir())
    described, _ = capture(repository, tmp_path / "out")
    assert described["base"], described
    assert sorted((repository.root / ".git").iterdir()) == before
    restore(repository, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_large_file_that_changed_since_is_not_taken_for_the_recorded_one(repository, tmp_path):
    (repository.root / "table.npy").write_bytes(bytes(200_000))
    capture(repository, tmp_path / "out")
    (repository.root / "table.npy").write_bytes(bytes(200_001))
    restore(repository, tmp_path / "out")
    assert not (tmp_path / "out" / "tree" / "table.npy").exists()


def test_what_a_sparse_checkout_leaves_out_was_not_deleted(repository, tmp_path):
    repository.git("sparse-checkout", "set", "src", "notebooks")
    assert not (repository.root / "tests").exists()
    described, patch = capture(repository, tmp_path / "out")
    assert (patch, described["dirty"]) == (b"", False)
