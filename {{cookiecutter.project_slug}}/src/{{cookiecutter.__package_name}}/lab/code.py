"""The code that a run is made with, captured without touching git's own index."""

import contextlib
import fnmatch
import hashlib
import json
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from .credentials import SECRET_NAMES, SECRET_TEXT
from .hashes import sha256
from .project import LabError, git, tilde

LARGE = 100_000  # bytes; untracked files above this are listed with their hash, not copied
LARGE_TOGETHER = 5_000_000  # bytes of untracked files in one patch
NOT_CODE = ":(exclude)reports"  # made from records: in the patch they would nest without end
ASIDE = (  # of no effect on a number
    "notebooks", "tests", "docs", "cluster", "*.md", ".*", "LICENSE", "Dockerfile", "*.log",
    "*.out", "*.cff", "environment*.yml", "*.lock", "conda-lock.yml", "pyproject.toml", "ruff.toml",
)  # fmt: skip
NOT_ASIDE = (":(exclude,glob)src/*/lab/**", *(f":(exclude){pattern}" for pattern in ASIDE))
BEHIND = "behind a symbolic link"
INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\]")
UNOWNED = ("sitecustomize", "usercustomize")  # Python imports them at its start; of no package
DIFF = (
    "diff", "--cached", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv",
    "--diff-algorithm=myers", "--find-renames", "--ignore-submodules=all", "--src-prefix=a/",
    "--dst-prefix=b/", "--unified=3", "--inter-hunk-context=0",
)  # fmt: skip


@contextlib.contextmanager
def beside(root: Path) -> Iterator[dict[str, str]]:
    """Give an environment in which git has an index and objects of its own; LabError if it fails.

    What it reads of the repository at `root` stays as it is.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    settings = dict.fromkeys(("core.fsmonitor", "core.safecrlf", "core.splitIndex"), "false")
    settings["core.hooksPath"] = os.devnull
    env["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (key, value) in enumerate(settings.items()):
        env |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    asked = ("--show-toplevel", "--git-path", "index", "--git-path", "objects")
    lines = git(root, "rev-parse", "--path-format=absolute", *asked, env=env).stdout.splitlines()
    if Path(lines[0]).resolve() != root.resolve():
        raise LabError(f"{root} is not the top of a git repository; run `lab setup`")
    with tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as scratch:
        Path(scratch, ".gitignore").write_text("*\n", "ascii")  # TMPDIR may be in the project
        Path(scratch, "objects", "info").mkdir(parents=True)
        Path(scratch, "objects", "info", "alternates").write_bytes(os.fsencode(lines[2]) + b"\n")
        env |= {"GIT_INDEX_FILE": f"{scratch}/index", "GIT_OBJECT_DIRECTORY": f"{scratch}/objects"}
        if Path(lines[1]).exists():
            shutil.copy2(lines[1], f"{scratch}/index")  # its time says which files git may trust
        yield env


def _base(root: Path, remote: str, env: dict) -> str:
    """Return the newest commit that is also on the remote's default branch, else HEAD."""
    for branch in ("HEAD", "main", "master") if remote else ():
        name = f"refs/remotes/{remote}/{branch}"
        if shared := git(root, "merge-base", "HEAD", name, env=env, check=False).stdout.strip():
            return shared
    return git(root, "rev-parse", "HEAD^{commit}", env=env).stdout.strip()


def _address(root: Path, remote: str, env: dict) -> str | None:
    """Return the remote's address without credentials."""
    url = git(root, "remote", "get-url", remote, env=env, check=False).stdout.strip()
    url = re.sub(r"^(https?://|ftps?://)[^/]*@", r"\1", url.split("?")[0])
    return tilde(re.sub(r"^(\w+://[^/:@]*):[^/]*@", r"\1@", url)) or None


def listing(root: Path, path: str, why: str) -> dict:
    """Describe the file `path` under `root` that the record does not hold, and `why`."""
    file = Path(root, path)
    try:
        size, digest = (file.stat().st_size, sha256(file)) if file.is_file() else (0, None)
    except OSError:
        size, digest = 0, None
    shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return {"path": tilde(shown), "sha256": digest, "bytes": size, "why": why}


def _reason_to_leave_out(root: Path, path: str, untracked: bool, held: int) -> str | None:
    """Say why a file's contents must not go into the record."""
    file = Path(root, path)
    name = PurePosixPath(path).name.lower()
    code = name.endswith((".py", ".ipynb", ".md"))  # secret_sharing.py: only its text can tell
    if not code and any(fnmatch.fnmatch(name, pattern) for pattern in SECRET_NAMES):
        return "may be a secret"
    if file.is_symlink() or not file.is_file():
        return None
    size = file.stat().st_size
    if untracked and (size > LARGE or held + size > LARGE_TOGETHER):
        return f"untracked and larger than {LARGE} bytes" if size > LARGE else "too much untracked"
    return "may be a secret" if SECRET_TEXT.search(file.read_bytes()) else None


def _stage(root: Path, base: str, env: dict) -> list[dict]:
    """Bring the temporary index in step with the working tree; return what is left out."""

    def names(*arguments: str) -> list[str]:
        out = git(root, *arguments, env=env, text=False).stdout
        return [os.fsdecode(name) for name in out.split(b"\0") if name]

    def update(paths: list[str], *options: str) -> None:
        given = b"".join(os.fsencode(path) + b"\0" for path in paths)
        git(root, "update-index", *options, "-z", "--stdin", env=env, text=False, input=given)

    git(root, "reset", "-q", "HEAD", "--", "reports", env=env)  # a merge may have left them open
    flags = names("ls-files", "-v", "-z")  # "H name"; other letters: git was told not to look
    hidden = {line[2:]: line[0] for line in flags if line[0] in "hsS"}  # h: if gone, then deleted
    for option in ("--no-assume-unchanged", "--no-skip-worktree") if hidden else ():
        update([p for p in hidden if hidden[p] == "h" or os.path.lexists(root / p)], option)
    listed, kept, held = [], [], 0
    others = names("ls-files", "--others", "--exclude-standard", "-z", "--", ".", NOT_CODE)
    for path in sorted(others, key=lambda path: not path.endswith(".py")):  # code before results
        if path.endswith("/"):  # a repository within: named as a submodule, by its commit
            continue
        try:
            why = _reason_to_leave_out(root, path, untracked=True, held=held)
            held += 0 if why else Path(root, path).lstat().st_size
        except OSError:  # an editor's scratch file, gone since; or what we may not read
            continue
        if why:
            listed.append(listing(root, path, why))
        else:
            kept.append(path)
    options = ("--name-only", "--no-renames", "--ignore-submodules=all", "-z")
    changed = names("diff-files", *options, "--", ".", NOT_CODE)
    # a folder on the way to a tracked file is a symbolic link now (none on the way to the root is)
    behind = {path for path in changed if any(map(Path.is_symlink, (root / path).parents))}
    update([*behind], "--force-remove")
    update([one for one in changed + kept if one not in behind], "--add", "--remove", "--replace")
    for path in kept:  # attributes such as text=auto must not take a new file's \r from it
        file = root / path
        content = b"" if file.suffix == ".ipynb" or file.is_symlink() else file.read_bytes()
        if b"\r\n" in content and b"\0" not in content:  # git leaves binary files, as every PNG
            blob = git(root, "hash-object", "-w", "--no-filters", "--", path, env=env)
            mode = "100755" if os.name == "posix" and os.access(file, os.X_OK) else "100644"
            git(root, "update-index", "--cacheinfo", mode, blob.stdout.strip(), path, env=env)
    changed = set(names("diff", "--cached", *options, base, "--", ".", NOT_CODE))
    secret = {path for path in changed - {*kept} if _reason_to_leave_out(root, path, False, 0)}
    if SECRET_TEXT.search(git(root, *DIFF, base, env=env, text=False).stdout):  # also in old lines
        one = [(path, (*DIFF, base, "--", f":(literal){path}")) for path in changed]
        shown = [(path, git(root, *diff, env=env, text=False).stdout) for path, diff in one]
        secret |= {path for path, part in shown if SECRET_TEXT.search(part)}
    if secret:
        given = "\0".join(f":(literal){path}" for path in sorted(secret))
        reset = ("reset", "-q", base, "--pathspec-from-file=-", "--pathspec-file-nul")
        git(root, *reset, env=env, input=given)
        listed += [listing(root, path, "may be a secret") for path in sorted(secret)]
    return listed


def state_of(submodule: Path) -> str | None:
    """Hash what a submodule holds beyond its commit; `None` where it holds no more."""
    if not git(submodule, "status", "--porcelain", "-z", "-uall", check=False, text=False).stdout:
        return None
    diff = ("diff", "HEAD", *DIFF[2:], "--ignore-submodules=none")
    total = hashlib.sha256(git(submodule, *diff, text=False, check=False).stdout)  # no HEAD yet?
    others = git(submodule, "ls-files", "--others", "--exclude-standard", "-z").stdout
    for path in others.split("\0")[:-1]:
        total.update(f"{path} {listing(submodule, path, '')['sha256']}\n".encode())
    return total.hexdigest()


def _imported() -> list[Path]:
    """Return the files of code that this process imported, those of installed packages apart."""
    known = (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), f"{sys.base_prefix}\\DLLs")
    files = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if name == "__main__":  # python a-link-to-the-project/train.py
            file = os.path.realpath(file)
        library = INSTALLED.search(file) or file.startswith(known)
        if name in UNOWNED:  # Debian's and Homebrew's Python has one among its own modules
            library = Path(file).parent == Path(sysconfig.get_path("stdlib"))
        if file.endswith((".py", ".so", ".pyd")) and not library:
            files.add(Path(file))
    # "_ops.py" of torch is made in memory
    return sorted(file for file in files if file.is_absolute() and file.exists())


def _surroundings(root: Path, env: dict) -> tuple[list[dict], list[dict]]:
    """Return the submodules, and what the run can read though its repository lacks it."""
    stage = git(root, "ls-files", "--stage", "-z", env=env).stdout
    entries = re.findall(r"(\d+) [^\t]+\t([^\0]+)", stage)  # "mode hash stage<tab>path"
    tracked = {str(root / path) for _, path in entries}
    links = [path for mode, path in entries if mode == "120000"]
    others = git(root, "ls-files", "--others", "--exclude-standard", "-z", env=env).stdout
    clones = [name[:-1] for name in others.split("\0") if name.endswith("/")]
    clones += [path for mode, path in entries if mode == "160000"]
    submodules = [path for path in clones if Path(root, path, ".git").exists()]
    found, listed = [], []
    for path in links:
        target = Path(os.path.realpath(root / path))  # resolve() fails for a link to itself
        if target.is_file() and str(target) not in tracked:
            listed.append(listing(root, path, BEHIND))
        elif target.is_dir() and not target.is_relative_to(root):
            for file in sorted(target.rglob("*.py")):
                inner = f"{path}/{file.relative_to(target).as_posix()}"
                listed.append(listing(root, inner, BEHIND))
    within = tuple(str(root / path) + os.sep for path in (*submodules, *links))
    for file in _imported():
        if not file.is_relative_to(root):
            listed.append(listing(root, str(file), "imported from outside the repository"))
        elif str(file) not in tracked and not str(file).startswith(within):
            inner = file.relative_to(root).as_posix()
            listed.append(listing(root, inner, "imported, ignored by git"))
    for path in submodules:
        head = git(root / path, "rev-parse", "-q", "--verify", "HEAD", check=False).stdout.strip()
        found.append({"path": path, "commit": head or None, "changes": state_of(root / path)})
    return found, listed


def capture(
    root: Path, argv: list[str], written: dict[Path, int] | None = None
) -> tuple[dict[str, Any], bytes]:
    """Record the code as it is now; neither git's index nor the working tree is touched.

    Parameters
    ----------
    root : Path
        The project's, the top of a repository.
    argv : list of str
        The arguments of the run.
    written : dict of Path to int, optional
        When each file was last written, in ns, as noted before it was imported.

    Returns
    -------
    code : dict
        What `code.json` holds: `commit`, `base`, `branch`, `remote` without credentials, `dirty`,
        `tree` (git's name for all that the patch restores), `sources` (a hash of the files among
        it that can change a number), `argv`, `package_path`, `submodules`, and `listed`: files
        of which only the hash is kept. `warning` if a run cannot, or perhaps cannot, be verified.
    patch : bytes
        From `base` to the working tree, with staged and untracked files, without ignored ones,
        `reports/`, secrets and large untracked files.
    """
    said = [SECRET_TEXT.sub(b"***", os.fsencode(part)).decode("utf-8", "replace") for part in argv]
    described = dict.fromkeys(("commit", "base", "branch", "remote", "dirty", "tree", "sources"))
    described |= {"argv": list(map(tilde, said)), "package_path": tilde(Path(__file__).parents[1])}
    root = root.resolve()
    try:
        with beside(root) as env:
            remotes = git(root, "remote", env=env).stdout.split()
            remote = "origin" if "origin" in remotes else (remotes or [""])[0]
            base = _base(root, remote, env)
            # so that it stays when it is amended away; a .git that may not be written is no matter
            git(root, "update-ref", f"refs/lab/{base}", base, env=env, check=False)
            listed = _stage(root, base, env)
            patch = git(root, *DIFF, base, "--", ".", NOT_CODE, env=env, text=False).stdout
            changed = git(root, "diff", "--cached", "--quiet", "HEAD", env=env, check=False)
            branch = git(root, "symbolic-ref", "--short", "-q", "HEAD", env=env, check=False)
            submodules, read = _surroundings(root, env)
            staged = ("ls-files", "--stage", "-z", "--", ".", NOT_CODE, *NOT_ASIDE)
            sources = git(root, *staged, env=env, text=False).stdout
            linked = [item for item in read if item["why"] == BEHIND]
            sources += json.dumps([submodules, linked]).encode() if submodules or linked else b""
            seen = {item["path"] for item in listed}
            described |= {
                "commit": git(root, "rev-parse", "HEAD", env=env).stdout.strip(),
                "base": base,
                "branch": branch.stdout.strip() or None,
                "remote": _address(root, remote, env),
                "dirty": bool(changed.returncode or listed),
                "tree": git(root, "write-tree", env=env).stdout.strip(),
                "sources": hashlib.sha256(sources).hexdigest(),
                "patch_sha256": hashlib.sha256(patch).hexdigest(),
                "submodules": submodules,
                "listed": [*listed, *(item for item in read if item["path"] not in seen)],
            }
    except LabError as error:
        hint = "no commit holds this code, so `lab verify` will not be able to run it again"
        described["warning"] = f"{hint}; `lab setup` makes a first commit ({error})"
        return described, b""
    now = {path: path.lstat().st_mtime_ns for path in written or () if os.path.lexists(path)}
    edited = [path for path, time in (written or {}).items() if now.get(path) != time]
    if names := ", ".join(path.relative_to(root).as_posix() for path in edited[:5]):
        described["warning"] = f"edited while it began, so other code may have run: {names}"
    return described, patch
