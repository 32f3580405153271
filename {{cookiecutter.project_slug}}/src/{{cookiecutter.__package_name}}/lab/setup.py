"""`lab setup`: everything that a clone of this project needs in git, as often as one likes."""

import re
import shlex
import sys
from pathlib import Path

from . import nbfilter, pairs
from .project import LabError, call, git, package_of, project_env, write_whole

HOOKS = ("pre-commit", "pre-merge-commit", "pre-push")
COMMON = '"$(git rev-parse --git-common-dir)"'  # of all worktrees; git runs us at the tree's top


def _shell_path(root: Path, program: str) -> str:
    """Quote a program's path for a shell, so that it survives the project's being moved."""
    path = Path(program)
    if path.is_relative_to(root) and _git_dir(root, "..").resolve() == root.resolve():
        return f"{COMMON}/../{shlex.quote(path.relative_to(root).as_posix())}"
    return shlex.quote(path.as_posix())


def _command(root: Path, program: str, arguments: str) -> str:
    """Write a shell command that runs Python: this one, or without it the first on PATH."""
    return f'p={_shell_path(root, program)}; [ -x "$p" ] || p=python3; exec "$p" {arguments}'


def _settings(root: Path) -> dict[str, str]:
    """Return what git's configuration should say."""
    plain = getattr(sys, "_base_executable", None) or sys.executable  # needs no packages
    # imported, not run as a script: so Python keeps it compiled, a tenth of each start's time
    code = "import sys; sys.path.insert(0, sys.argv[1]); import nbfilter; nbfilter.main()"
    run = f'-I -S -c "{code}" {COMMON}/lab'
    lab = f"runpy.run_module('{package_of(root)}.lab.cli', run_name='__main__')"
    merge = f"import runpy, sys; sys.path.insert(0, 'src'); {lab}"
    driver = f'-c "{merge}" merge-driver %O %A %B %P'
    return {
        "filter.notebook.clean": _command(root, plain, f"{run} clean %f"),
        "filter.notebook.smudge": _command(root, plain, f"{run} smudge %f"),
        # a smudge that fails must not delete the notebook; the guard refuses what clean missed
        "filter.notebook.required": "false",
        "diff.notebook.textconv": _command(root, plain, f"{run} text"),
        "merge.notebook.name": "notebooks by their cells",
        "merge.notebook.driver": _command(root, sys.executable, driver),
    }


def _git_dir(root: Path, name: str) -> Path:
    """Return a path in the git directory that all worktrees share."""
    return root / git(root, "rev-parse", "--git-common-dir").stdout.strip() / name


def _filter(root: Path) -> None:
    """Copy the filter into the git directory and tell git of it."""
    script = _git_dir(root, "lab/nbfilter.py")
    script.parent.mkdir(parents=True, exist_ok=True)
    write_whole(script, Path(nbfilter.__file__).read_bytes())  # git may be running it just now
    for key, value in _settings(root).items():
        git(root, "config", key, value)
    print("git: notebooks are committed without outputs, shown and merged by their cells")


def _hooks(root: Path) -> bool:
    """Install the hooks and build their environment, once; say what stands in the way."""
    taken = git(root, "config", "--show-origin", "core.hooksPath", check=False).stdout
    if taken:
        origin, _, path = taken.rstrip("\n").partition("\t")
        print(
            f"hooks: core.hooksPath is set to {path} ({origin}), and pre-commit cannot "
            "work beside it. Either: git config --unset-all core.hooksPath (with --global, if "
            "it is set there), then lab setup; or call from the hooks there: pre-commit run "
            "--hook-stage pre-commit"
        )
        return False
    command = [sys.executable, "-m", "pre_commit", "install", "--install-hooks"]
    done = call(command, cwd=root, env=project_env(root))
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:]
        print(
            f"hooks: pre-commit could not install them: {''.join(reason)}\n"
            "       It needs write permission in .git/hooks and, the first time, a package "
            "registry; then: lab setup"
        )
        return False
    python = f"INSTALL_PYTHON={_shell_path(root, sys.executable)}"
    for name in HOOKS:
        hook = _git_dir(root, f"hooks/{name}")
        text = re.sub(r"(?m)^INSTALL_PYTHON=.*", lambda _: python, hook.read_text(encoding="utf-8"))
        hook.write_text(text, encoding="utf-8", newline="\n")
    print(f"hooks: {', '.join(HOOKS)} are installed")
    return True


def setup(root: Path) -> int:
    """Set up a checkout at `root`: repository, filter, merge driver, hooks, pairs in step.

    Returns 1 if you must do something, which is printed; LabError if git fails or does not
    know your name.
    """
    if git(root, "var", "GIT_COMMITTER_IDENT", check=False).returncode:
        way = 'git config --global user.name "Your Name" and git config --global user.email'
        raise LabError(f'git does not know who you are; {way} "you@example.org", then lab setup')
    top = git(root, "rev-parse", "--show-toplevel", check=(root / ".git").exists()).stdout.strip()
    if not top or Path(top).resolve() != root.resolve():
        git(root, "init", "--quiet", "--initial-branch=main")
        print(f"git: made a repository in {root}")
    _filter(root)
    stepped = pairs.sync(root, []) == 0
    if git(root, "rev-parse", "--verify", "--quiet", "HEAD", check=False).returncode:
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "--no-verify", "--message", "Start from the template")
        print("git: made the first commit")
    return 0 if _hooks(root) and stepped else 1


def problems(root: Path) -> list[tuple[str, str]]:
    """Return what `lab setup` has not done in `root`, each with the command that fixes it."""
    found, common = [], str(_git_dir(root, "."))
    script = _git_dir(root, "lab/nbfilter.py")
    if not script.exists() or script.read_bytes() != Path(nbfilter.__file__).read_bytes():
        found.append("the notebook filter is not installed, or is another version")
    for key in _settings(root):
        value = git(root, "config", key, check=False).stdout.strip()
        program = re.match(r"p=(.+?); \[", value)
        program = shlex.split(program[1].replace(COMMON, shlex.quote(common)))[0] if program else ""
        if not value:
            found.append(f"git's {key} is not set")
        elif program and not Path(program).exists():
            found.append(f"git's {key} names {program}, which is gone")
    for name in HOOKS:
        hook = _git_dir(root, f"hooks/{name}")
        if not hook.exists() or "pre-commit" not in hook.read_text(encoding="utf-8"):
            found.append(f"the {name} hook is not installed")
    if git(root, "config", "core.hooksPath", check=False).stdout:
        found.append("core.hooksPath is set, so git runs no hooks here; lab setup says more")
    listed = [(what, "lab setup") for what in found]
    asked = git(root, "check-attr", "filter", "notebooks/x.ipynb", check=False).stdout
    if not asked.endswith(" notebook\n"):  # of .git/info/attributes, perhaps
        what = f"git has another filter for notebooks, which loses outputs: {asked.split()[-1]}"
        listed.append((what, "nbstripout --uninstall"))
    return listed
