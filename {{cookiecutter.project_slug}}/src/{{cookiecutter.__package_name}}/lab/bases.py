"""What a pair's halves said when they last agreed, in a commit or at a sync; syncs' backups."""

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from .percent import in_step, normal, text_of
from .project import LabError, git, write_whole

BACKUPS = 50  # of `lab sync`; also what it knows of states that were never committed
WHOLE = 3  # syncs that `--undo` can take back to the last output


def backups(root: Path) -> Path:
    """Return the folder of the backups of this worktree, `root`."""
    done = git(root, "rev-parse", "--git-path", "lab/backup", check=False)
    return root / (".lab-backup" if done.returncode else done.stdout.strip())


def new_backup(root: Path) -> Path:
    """Return a folder under `root` for the backup of one sync alone."""
    return backups(root) / f"{time.time_ns()}-{os.getpid()}"


def prune(root: Path) -> None:
    """Keep the last `BACKUPS` of `root`, with large notebooks only for the last `WHOLE` syncs."""
    kept = sorted(backups(root).glob("*"))
    for old in kept[:-BACKUPS]:
        shutil.rmtree(old, ignore_errors=True)  # another sync may be at the same
    whole = [old for old in kept if (old / "after").exists()][-WHOLE:]
    for old in set(kept) - set(whole):  # what both halves said, the .py tells, too
        copies = [path for path in old.rglob("*.ipynb") if path.exists()]
        if sum(path.stat().st_size for path in copies) > 1_000_000:  # bytes
            for path in copies:  # all: `--undo` takes what `before` lacks for new, and deletes it
                path.unlink(missing_ok=True)


def keep(root: Path, folder: Path, files: dict[Path, bytes]) -> None:
    """Copy `files` of `root` into a `folder` of the backup."""
    for path, content in files.items():
        copy = folder / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_whole(copy, content)


def note(root: Path, files: dict[Path, bytes], backup: Path, kind: str) -> None:
    """Keep what both halves in `root` say now, `files`, for the next sync.

    It goes into `backup`; `kind` is `after` if the sync wrote a half, `seen` if both agreed.
    Written last, so that a sync that is killed earlier leaves no note.
    """
    script, notebook = sorted(files, reverse=True)
    state = _state(root, script, notebook)
    if kind == "seen" and _synced(root, script) == (normal(files[script].decode()), state):
        return
    keep(root, backup / "state", {script.with_suffix(".json"): json.dumps(state).encode()})
    keep(root, backup / kind, files)


def _state(root: Path, *halves: Path) -> dict[str, Any]:
    """Return what tells later whether git rewrote the halves, or nobody touched one of them."""
    moves = ("reflog", "show", "HEAD", "--date=raw", "--format=%gd %gs")
    lines = git(root, *moves, check=False).stdout.splitlines()
    index = ("--literal-pathspecs", "ls-files", "--stage", "--debug", "--", *map(str, halves))
    # "mode blob stage<tab>path", and below it the times that git knows of the file
    entry = r"(?m)^\d+ (\w+) 0\t.*\n +ctime: (.+)"
    log = ("--literal-pathspecs", "log", "--max-count=1", "--format=%H", "--", *halves)
    return {
        "moved": next((line for line in lines if "} commit" not in line), ""),  # checkout, reset
        "commit": git(root, *map(str, log), check=False).stdout.strip(),
        "index": dict(re.findall(entry, git(root, *index, check=False).stdout)),
        "files": [[s.st_mtime_ns, s.st_ctime_ns, s.st_size] for s in map(Path.stat, halves)],
    }


def _committed(root: Path, script: Path, notebook: Path) -> str | None:
    """Return what both halves last said alike in a commit, else in the index."""
    halves = [path.relative_to(root).as_posix() for path in (notebook, script)]
    wanted = ("--literal-pathspecs", "log", "--max-count=50", "--format=%H", "--", *halves)
    for revision in [*git(root, *wanted, check=False).stdout.split(), ""]:
        with contextlib.suppress(LabError, UnicodeDecodeError):  # none there; not text; odd
            shown = [
                git(root, "cat-file", "blob", f"{revision}:{half}", text=False).stdout
                for half in halves
            ]
            text = shown[1].decode()
            if in_step(shown[0], text):
                return normal(text)
    return None


def _other_pairs(root: Path) -> list[str | None]:
    """Return what all pairs in the last commit say: one without history may be a copy of one."""
    wanted = ("ls-tree", "-r", "-z", "--name-only", "HEAD", "notebooks")
    names = git(root, *wanted, check=False).stdout.split("\0")
    scripts = [root / name for name in names if name.endswith(".py")]
    return [_committed(root, path, path.with_suffix(".ipynb")) for path in scripts]


def _synced(root: Path, script: Path) -> tuple[str, dict[str, Any]] | None:
    """Return what both halves said at the last sync, and the state of things then."""
    name = script.relative_to(root)
    kept = [path for kind in ("after", "seen") for path in backups(root).glob(f"*[0-9]/{kind}")]
    for folder in sorted(kept, key=lambda path: path.parent.name, reverse=True):
        if (folder / name).exists():
            state = folder.parent / "state" / name.with_suffix(".json")
            noted = json.loads(state.read_bytes()) if state.exists() else {}
            return normal((folder / name).read_text(encoding="utf-8")), noted
    return None


def edited(root: Path) -> set[str]:
    """Return the `.py` halves in `root` that are not as in the last commit."""
    asked = ("status", "--porcelain", "-z", "--no-renames", "-uall", "--", "notebooks/*.py")
    listed = git(root, "--no-optional-locks", *asked, check=False).stdout.split("\0")
    return {entry[3:] for entry in listed}


def merge(root: Path, names: tuple, ours: str, base: str, theirs: str) -> tuple[str, bool]:
    """Merge three texts by git, in `root`; return the result and whether it holds conflicts.

    Conflict markers label `ours`, `base` and `theirs` with `names`. LabError if git fails.
    """
    labels = [part for name in names for part in ("-L", name)]
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, str(number))) for number in range(3)]
        for file, text in zip(files, (ours, base, theirs), strict=True):
            Path(file).write_bytes(text.encode("utf-8", "surrogateescape"))
        done = git(root, "merge-file", "-p", *labels, *files, check=False)
    if not 0 <= done.returncode < 128:
        raise LabError(f"git merge-file failed: {done.stderr.strip()}")
    return done.stdout, done.returncode > 0


def latest(base: str, mine: str, wanted: str) -> str:
    """Return what both halves said last: `mine` or `wanted`, if the other alone was edited since.

    All that such a half has beside the cells of the `base`, the other has too: Jupyter saved them
    in both. Against the `base` git might write them twice. If both were edited, it is the `base`.
    """
    ours, theirs, old = (re.split(r"\n+(?=# %%)", said.strip()) for said in (mine, wanted, base))
    alike = [cell for cell in ours if cell in theirs] == [cell for cell in theirs if cell in ours]
    for one, other, said in ((ours, theirs, mine), (theirs, ours, wanted)):
        if alike and [cell for cell in one if cell in old] == old and {*one} - {*old} <= {*other}:
            return said
    return base


def merge_base(root: Path, script: Path, notebook: Path, said: tuple[str, str]) -> str | None:
    """Return what `script` and `notebook` in `root` last said alike, before they were edited.

    That is what the last sync left or saw; or the last commit, if git has written other halves
    since (a branch was switched, something was stashed); in a conflict, what git wrote. It is a
    percent text, as are the two in `said`, the halves as they are now; `None` if nothing tells
    which of these it is: the wrong one would lose an edit.
    """
    unmerged = ("--literal-pathspecs", "ls-files", "--unmerged", "--", notebook)
    if ours := re.search(r" (\w+) 2\t", git(root, *unmerged, check=False).stdout):
        with contextlib.suppress(LabError):  # in a conflict git wrote ours: only the .py was edited
            if text_of(git(root, "cat-file", "blob", ours[1], text=False).stdout) == said[1]:
                return said[1]
    committed, synced = _committed(root, script, notebook), _synced(root, script)
    if synced is None:
        copied = (text for text in _other_pairs(root) if text and text in said)
        return next(copied, None) if committed is None else committed
    text, noted = synced
    if committed in (None, text):
        return text
    now = _state(root, script, notebook)
    untouched = any(a == b for a, b in zip(noted.get("files", []), now["files"], strict=False))
    # the same blob at another time: git put the half back, as `git restore` does (0:0: unstaged)
    left = all(
        now["index"].get(blob, time) in (time, "0:0")
        for blob, time in noted.get("index", {}).items()
    )
    if left and (untouched or all(noted.get(key) == now[key] for key in ("moved", "commit"))):
        return text
    possible = [latest(base, *said) for base in (committed, text)]
    results = [merge(root, ("", "", ""), said[0], base, said[1]) for base in possible]
    # where `latest` chose, a conflict with the other base proves nothing
    sure = results[0] == results[1] or (possible[0] == committed and any(c for _, c in results))
    return committed if sure else None
