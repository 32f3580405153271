"""`lab setup`, pre-commit's own hooks, and everywhere that people commit."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Project
from notebook_pairs import HOOKS_HOME, Pair, assert_history_is_clean, commit, copy_of

pytestmark = pytest.mark.slow

HOME = {"PRE_COMMIT_HOME": str(HOOKS_HOME), "SKIP": "check"}  # our pairs have no seven sections


class Hooked(Project):
    """A project whose commands find the hooks' shared environment."""

    @property
    def env(self):
        return {**super().env, **HOME}


@pytest.fixture(scope="module")
def hooked(pristine, tmp_path_factory):
    root = tmp_path_factory.mktemp("places") / pristine.root.name
    shutil.copytree(pristine.root, root, symlinks=True)
    project = Hooked(root)
    for path in (root / "notebooks").glob("01_*"):
        path.unlink()
    Pair(project).make()
    project.said = project.lab("setup", check=True).stdout
    return project


@pytest.fixture
def pair(hooked, tmp_path):
    return Pair(Hooked(copy_of(hooked, tmp_path).root))


def restricted(**more):
    """Return the environment of an IDE's git: no virtual environment, a short PATH."""
    keep = {k: v for k, v in os.environ.items() if k.startswith(("HOME", "LANG", "TMP"))}
    who = {f"GIT_{role}_{what}": "ada@example.org"
           for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}  # fmt: skip
    return {**keep, **who, **HOME, "PATH": "/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1", **more}


def plain_git(root, *arguments, check=True):
    """Run git as an IDE does."""
    return subprocess.run(["git", *arguments], cwd=root, env=restricted(), capture_output=True,
                          text=True, encoding="utf-8", check=check)  # fmt: skip


def test_setup_makes_a_repository_with_a_first_commit_and_says_so(hooked):
    assert "made a repository" in hooked.said
    assert "first commit" in hooked.said
    assert hooked.git("rev-list", "--count", "HEAD").stdout.strip() == "1"
    assert hooked.git("status", "--short").stdout == ""
    for name in ("pre-commit", "pre-merge-commit", "pre-push"):
        assert (hooked.root / ".git" / "hooks" / name).exists()
    again = hooked.lab("setup", check=True).stdout
    assert "made" not in again
    config = (hooked.root / ".git" / "config").read_text()
    assert str(hooked.root) not in config
    assert "required = false" in config


def test_setup_makes_a_repository_of_its_own_inside_another(pristine, tmp_path):
    outer = Project(tmp_path)
    outer.git("init", "-q")
    root = tmp_path / "demo" / "inner"
    shutil.copytree(pristine.root, root)
    inner = Hooked(root)
    inner.lab("setup", check=True)
    assert Path(inner.git("rev-parse", "--show-toplevel").stdout.strip()) == root
    assert inner.git("rev-list", "--count", "HEAD").stdout.strip() == "1"


def test_all_hooks_are_green_on_a_fresh_project(pristine, tmp_path):
    root = tmp_path / pristine.root.name
    shutil.copytree(pristine.root, root)
    project = Hooked(root)
    project.lab("setup", check=True)
    done = project.python("-m", "pre_commit", "run", "--all-files", env={"SKIP": ""})
    assert done.returncode == 0, done.stdout
    assert "Failed" not in done.stdout
    pushed = project.python("-m", "pre_commit", "run", "--all-files", "--hook-stage", "pre-push")
    assert pushed.returncode == 0, pushed.stdout
    assert project.git("status", "--short").stdout == ""


def test_without_an_identity_setup_says_what_to_type(project, tmp_path):
    env = {f"GIT_{r}_{w}": "" for r in ("AUTHOR", "COMMITTER") for w in ("NAME", "EMAIL")}
    done = project.lab("setup", env={**env, "HOME": str(tmp_path), "EMAIL": ""})
    assert done.returncode == 2
    assert "git config --global user.name" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (project.root / ".git").exists()


def test_with_hooks_path_set_setup_says_what_to_do(pair):
    pair.project.git("config", "core.hooksPath", "/some where")
    done = pair.project.lab("setup")
    assert done.returncode == 1
    assert "git config --unset-all core.hooksPath" in done.stdout
    assert "set to /some where (file:.git/config)" in done.stdout


def test_hooks_that_cannot_be_written_are_said_and_the_rest_is_done(pair):
    hooks = pair.project.root / ".git" / "hooks"
    shutil.rmtree(hooks)
    hooks.write_text("")  # root may write anywhere, so a folder without permission is none
    pair.project.git("config", "--unset", "filter.notebook.clean")
    done = pair.project.lab("setup")
    assert done.returncode == 1
    assert "write permission in .git/hooks" in done.stdout
    assert pair.project.git("config", "filter.notebook.clean").stdout


@pytest.mark.slow
def test_a_commit_in_an_ide_with_other_files_unstaged_keeps_every_output(pair):
    root = pair.project.root
    outputs = pair.execute()
    pair.edit_nb("third = 3", "third = 33")
    before = pair.nb.read_bytes()
    (root / "README.md").write_text((root / "README.md").read_text() + "more\n")
    (root / "other.txt").write_text("x\n")
    plain_git(root, "add", "other.txt")
    done = plain_git(root, "commit", "-m", "unrelated")
    assert "guard" not in done.stderr
    assert pair.nb.read_bytes() == before
    plain_git(root, "commit", "-m", "pathspec", "--", "README.md")
    assert pair.nb.read_bytes() == before
    plain_git(root, "add", "-A")
    assert plain_git(root, "commit", "-m", "one half", check=False).returncode
    plain_git(root, "add", "-A")
    plain_git(root, "commit", "-m", "both halves")
    assert_history_is_clean(pair.project)
    assert pair.outputs()["first = 1"] == outputs["first = 1"]


@pytest.mark.slow
@pytest.mark.parametrize("staged", ["py", "nb"])
def test_one_half_staged_and_the_other_edited_unstaged(pair, staged):
    pair.execute()
    pair.edit_py("second = 2", "second = 22")
    pair.edit_nb("third = 3", "third = 33")
    pair.project.git("add", pair.both[0] if staged == "py" else pair.both[1])
    assert pair.project.git("commit", "-m", "x", check=False).returncode
    assert "second = 22" in pair.py.read_text()
    assert "third = 33" in pair.nb.read_text()
    pair.sync()
    commit(pair.project, add=["notebooks"], times=1)
    assert {"second = 22", "third = 33"} <= set(pair.says())
    assert pair.outputs()["print(first)"] == "run 1: print(first)\n"
    assert_history_is_clean(pair.project)


@pytest.mark.slow
def test_badly_formatted_code_in_either_half_needs_two_commits_and_no_more(pair):
    pair.execute()
    for edit in (pair.edit_py, pair.edit_nb):
        edit("third = 3", "third =  3 +  0")
        commit(pair.project, add=["notebooks"])
        assert_history_is_clean(pair.project)
    assert pair.outputs()["second = 2"] == "run 1: second = 2\n"


@pytest.mark.slow
@pytest.mark.parametrize("heeded", [True, False])
def test_a_new_notebook_from_elsewhere_is_changed_by_no_hook_until_its_person_asks(pair, heeded):
    new = Pair(pair.project, "notebooks/02_from elsewhere").make(["x  =  1", "print( x )"])
    new.py.unlink()
    outputs, before = new.execute(), new.nb.read_bytes()
    pair.project.git("add", "notebooks")
    refused = pair.project.git("commit", "-m", "x", check=False)
    typed = f'ruff check --fix "{new.both[0]}"; ruff format "{new.both[0]}"; lab sync'
    assert refused.returncode
    assert typed in refused.stdout + refused.stderr
    assert new.nb.read_bytes() == before
    if not heeded:
        for _ in range(2):
            pair.project.git("add", "notebooks")
            refused = pair.project.git("commit", "-m", "x", check=False)
            assert refused.returncode
            assert "type: lab sync" in refused.stdout + refused.stderr
            assert new.nb.read_bytes() == before
    pair.project.run("sh", "-ec", typed.removesuffix("; lab sync"), check=True)
    pair.sync()
    commit(pair.project, add=["notebooks"], times=1)
    assert new.says() == ["x = 1", "print(x)"]
    assert list(new.outputs().values()) == list(outputs.values())
    assert_history_is_clean(pair.project)


@pytest.mark.slow
def test_line_breaks_in_prose_survive_the_formatter(pair):
    pair.edit_nb("Some prose.", "Some prose,  \nand more  \nof it.")
    for edit, old, new in ((pair.edit_nb, "= 3", "= 33"), (pair.edit_py, "of it.", "of that.")):
        edit(old, new)
        commit(pair.project, add=["notebooks"])
        sources = ["".join(cell["source"]) for cell in pair.read()["cells"]]
        assert any(source.startswith("Some prose,  \nand more  \nof ") for source in sources)
    assert sources[3].endswith("of that.")
    assert pair.sync() == ""
    assert pair.project.git("status", "--short").stdout == ""


@pytest.mark.slow
def test_no_hook_rewrites_a_cell_and_so_costs_its_output(pair):
    pair.edit_nb("first = 1", "import sys\nimport os\n\nfirst = 1")
    pair.sync()
    outputs = pair.execute()
    pair.project.git("add", "notebooks")
    refused = pair.project.git("commit", "-m", "x", check=False)
    assert "I001" in refused.stdout + refused.stderr
    assert pair.outputs() == outputs
    pair.edit_nb("import sys\nimport os", "import os\nimport sys")
    pair.edit_nb("first = 1", "first = os, sys")
    pair.sync()
    commit(pair.project, add=["notebooks"], times=1)


@pytest.mark.slow
def test_a_partly_staged_notebook_survives_pre_commits_own_stash(pair):
    pair.edit_py("second = 2", "second = 22")
    pair.sync()
    pair.project.git("add", "notebooks")
    pair.edit_py("third = 3", "third = 33")
    pair.sync()
    outputs = pair.execute()
    commit(pair.project, times=1)
    assert pair.outputs() == outputs
    assert "third = 33" in pair.says()
    assert_history_is_clean(pair.project)


@pytest.mark.slow
@pytest.mark.parametrize("half", ["py", "nb"])
def test_no_hook_writes_what_pre_commit_would_take_back_after_it(pair, half):
    script = pair.project.root / "train.py"
    script.write_text(script.read_text() + "\n\nA  =  1\n")
    outputs = pair.execute()
    (pair.edit_py if half == "py" else pair.edit_nb)("second = 2", "second = 22")
    pair.project.git("add", "-A")
    script.write_text(script.read_text().replace("A  =  1", "A  =  2"))  # conflicts with ruff's
    refused = pair.project.git("commit", "-m", "x", check=False)
    assert "lab sync" in refused.stdout + refused.stderr
    edited = pair.py if half == "py" else pair.nb
    assert "second = 22" in edited.read_text()
    pair.sync()
    commit(pair.project, add=["-A"])
    assert "second = 22" in pair.says()
    assert pair.outputs()["third = 3"] == outputs["third = 3"]


@pytest.mark.slow
def test_staged_and_unstaged_edits_of_one_cell_in_different_halves_are_both_kept(pair):
    pair.edit_py("second = 2", "a = 1\nb = 2\nc = 3\nd = 4")
    commit(pair.project, add=["notebooks"])
    pair.edit_py("a = 1", "a = 11")
    pair.project.git("add", pair.both[0])
    pair.edit_nb("d = 4", "d = 44")
    pair.project.git("commit", "-m", "x", check=False)
    pair.sync()
    assert "a = 11\nb = 2\nc = 3\nd = 44" in pair.says()


@pytest.mark.slow
def test_a_pair_reformatted_while_something_is_not_staged_needs_two_commits(pair):
    pair.edit_py("third = 3", "third   =   33")
    pair.sync()
    pair.project.git("add", "-A")
    (pair.project.root / "README.md").write_text("# unstaged\n")
    refused = pair.project.git("commit", "-m", "x", check=False)
    assert "lab sync; git add both halves" in refused.stdout + refused.stderr
    pair.sync()
    commit(pair.project, add=["notebooks"], times=1)
    assert "third = 33" in pair.says()


@pytest.mark.slow
def test_a_moved_project_a_worktree_and_a_subdirectory_commit_alike(pair, tmp_path):
    outputs = pair.execute()
    pair.project.git("add", "-A")
    moved = tmp_path / "somewhere 里" / "renamed"
    moved.parent.mkdir()
    pair.project.root.rename(moved)
    tree = tmp_path / "tree"
    plain_git(moved, "worktree", "add", "-q", str(tree))
    for root in (moved, tree):
        here = Pair(Hooked(root), "notebooks/01_pair")
        assert here.outputs() == outputs, "the memory is shared"
        Pair(Hooked(root), f"notebooks/02 {root.name} 图").make().execute()
        kept = here.outputs()
        plain_git(root / "notebooks", "add", ".")
        plain_git(root / "notebooks", "commit", "-m", "from a subdirectory")
        assert here.outputs() == kept
        assert_history_is_clean(Hooked(root))


def test_a_submodule_is_set_up_like_any_clone(hooked, tmp_path):
    outer = Hooked(tmp_path / "outer")
    outer.root.mkdir()
    outer.git("init", "-q", "-b", "main")
    allow = ("-c", "protocol.file.allow=always")
    outer.git(*allow, "submodule", "add", "-q", str(hooked.root), "inner")
    inner = Pair(Hooked(outer.root / "inner"))
    inner.project.lab("setup", check=True)
    inner.edit_nb("second = 2", "second = 22")
    inner.sync()
    outputs = inner.execute()
    plain_git(inner.project.root, "add", "-A")
    plain_git(inner.project.root, "commit", "-m", "in a submodule")
    assert inner.outputs() == outputs
    assert_history_is_clean(inner.project)


def test_a_clone_with_crlf_checkouts_has_nothing_to_commit(hooked, tmp_path):
    root = tmp_path / "clone"
    plain_git(tmp_path, "clone", "-q", "-c", "core.autocrlf=true", str(hooked.root), str(root))
    clone = Pair(Hooked(root))
    clone.project.lab("setup", check=True)
    assert b"\r" not in clone.nb.read_bytes()
    clone.py.write_bytes(clone.py.read_bytes().replace(b"\n", b"\r\n"))
    assert clone.sync() == ""
    clone.execute()
    plain_git(root, "add", "-A")
    assert plain_git(root, "status", "--short").stdout == ""


def test_a_dirty_notebook_cannot_be_pushed(pair, tmp_path):
    bare = tmp_path / "bare.git"
    pair.project.git("init", "-q", "--bare", str(bare))
    pair.project.git("remote", "add", "origin", str(bare))
    pair.project.git("config", "filter.notebook.clean", "cat")
    pair.execute()
    pair.project.git("commit", "-q", "-a", "-m", "dirty", "--no-verify")
    refused = pair.project.git("push", "-q", "origin", "main", check=False)
    assert refused.returncode
    assert "outputs" in refused.stdout + refused.stderr


@pytest.mark.parametrize("branch", ["main", "other"])
def test_what_is_pushed_is_judged_and_not_what_is_checked_out(pair, tmp_path, branch):
    bare = tmp_path / "bare.git"
    pair.project.git("init", "-q", "--bare", str(bare))
    pair.project.git("remote", "add", "origin", str(bare))
    if branch == "other":
        pair.project.git("switch", "-q", "-c", "other")
    pair.edit_py("second = 2", "second = 22")
    pair.project.git("commit", "-q", "-a", "-m", "out of step", "--no-verify")
    if branch == "other":
        pair.project.git("switch", "-q", "main")
    else:
        pair.sync()
        pair.project.git("add", "-A")
    refused = pair.project.git("push", "-q", "origin", branch, check=False)
    assert refused.returncode
    assert "do not say the same" in refused.stdout + refused.stderr


def test_doctor_is_told_what_is_missing_and_setup_mends_it(pair):
    root = pair.project.root
    code = f"from pathlib import Path; from {pair.project.package}.lab import setup"
    code += "; print(setup.problems(Path.cwd()))"

    def problems():
        return pair.project.python("-c", code, check=True).stdout.strip()

    assert problems() == "[]"
    (root / ".git" / "lab" / "nbfilter.py").write_text("")
    pair.project.git("config", "--unset", "merge.notebook.driver")
    (root / ".git" / "hooks" / "pre-commit").unlink()
    found = problems()
    assert re.search("filter.*merge.notebook.driver.*pre-commit hook", found)
    assert found.count("lab setup") == 3
    pair.project.lab("setup", check=True)
    assert problems() == "[]"


def test_two_commands_at_once_do_no_harm(pair):
    outputs = pair.execute()
    pair.edit_nb("second = 2", "second = 22")
    pair.sync()
    git = ["git", "-c", "core.fsmonitor=false", "add", "--renormalize", "-A"]
    running = [
        subprocess.Popen(git, cwd=pair.project.root, env=pair.project.env, stderr=-3)
        for _ in range(3)
    ]
    assert any(process.wait() == 0 for process in running)
    assert pair.outputs()["first = 1"] == outputs["first = 1"]
