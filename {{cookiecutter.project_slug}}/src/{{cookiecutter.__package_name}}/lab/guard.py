"""Refuse notebooks in git that are not clean, paired and in step.

It judges what git holds, not what is on disk, and needs nothing set up: in a clone with
pre-commit alone, and in CI, it sees the same. nbstripout is the referee.
"""

import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import nbfilter
from .project import LabError, call, git

# What nbstripout strips by default, beside outputs and counts (its command line's own list).
REFEREE = ("collapsed", "ExecuteTime", "execution", "heading_collapsed", "hidden", "scrolled")
REFEREE_KEYS = ["metadata.signature", "metadata.widgets", *map("cell.metadata.{}".format, REFEREE)]


class Finding(NamedTuple):
    """What is wrong with a notebook in git, and what to type."""

    path: str
    what: str
    remedy: str
    mendable: bool = True  # by `lab sync` and the filter, without a person


def tracked(root: Path, revision: str | None) -> dict[str, str]:
    """Map the notebooks under `root`, and their `.py`, to blobs of `revision` or of the index."""
    command = ("ls-tree", "-r", "-z", revision) if revision else ("ls-files", "-s", "-z")
    found = {}
    for entry in git(root, *command, check=not revision).stdout.split("\0")[:-1]:
        facts, path = entry.split("\t", 1)
        paired = path.startswith("notebooks/") and path.endswith(".py")
        if facts.startswith("100") and (paired or path.endswith(".ipynb")):
            found[path] = max(facts.split(), key=len)  # of mode, blob, stage; or mode, type, blob
    return found


def _contents(root: Path, blobs: list[str]) -> dict[str, bytes]:
    """Read blobs, all in one process."""
    asked = "".join(f"{blob}\n" for blob in blobs).encode()
    out = io.BytesIO(git(root, "cat-file", "--batch", input=asked, text=False).stdout)
    found = {}
    while header := out.readline().decode():
        name, _, size = header.split()
        found[name] = out.read(int(size) + 1)[:-1]  # a line end follows each
    return found


def _unclean(path: str, data: bytes) -> tuple[str, str, bool] | None:
    """Say what is wrong with a notebook by itself: what, remedy, whether the filter mends it."""
    nb = nbfilter.parse(data)
    if nb is None:
        if b"<<<<<<< " in data:
            return "holds conflict markers", f'git checkout --ours "{path}"; lab sync', False
        return "is no notebook of nbformat 4 (invalid JSON?)", "save it in Jupyter again", False
    if nbfilter.clean(data) != data:
        remedy = f'git add --renormalize "{path}" (after `lab setup`, once a clone)'
        return "holds outputs or what only tools write", remedy, True
    if len(data) > 1_024_000:
        return "is over 1 MB without its outputs", "keep its pictures as files beside it", False
    from nbstripout import MetadataError, strip_output

    from . import percent

    try:
        stripped = strip_output(percent.node(nb), None, False, True, extra_keys=REFEREE_KEYS)
    except (MetadataError, AttributeError, KeyError, TypeError) as error:
        return f"is refused by nbstripout ({error})", "correct that cell's metadata", False
    if stripped != percent.node(nb):
        return "would still be changed by nbstripout", f'nbstripout --keep-id "{path}"', False
    return None


def _judge(root: Path, tree: dict, before: dict, stems: set[str]) -> Iterator[Finding]:
    """Yield what is wrong with the given pairs in a tree."""
    from . import percent  # not above: most commits touch no notebook, and need not wait for it

    pairs = [(f"{stem}.ipynb", f"{stem}.py") for stem in sorted(stems)]
    blobs = _contents(root, [tree[path] for pair in pairs for path in pair if path in tree])
    for notebook, script in pairs:
        data, text = (blobs.get(tree.get(path, "")) for path in (notebook, script))
        if data is None:
            if b"# %%" not in (text or b""):
                continue  # a module, or a pair that is gone whole
        elif wrong := _unclean(notebook, data):
            yield Finding(notebook, *wrong)
            continue
        elif not (notebook.startswith("notebooks/") and percent.is_paired(nbfilter.parse(data))):
            continue
        if data is None or text is None:
            gone, there = (notebook, script) if data is None else (script, notebook)
            if gone in before:
                remedy = f'git rm "{there}", or git mv it, too; or: git restore -SW "{gone}"'
                yield Finding(gone, f"was deleted or renamed without {there}", remedy, False)
            else:
                remedy = f'lab sync; git add "{gone}" "{there}"'
                yield Finding(gone, "is missing: the other half is there", remedy)
            continue
        try:
            if percent.has_markers(text.decode()):
                yield Finding(script, "holds conflict markers", "resolve them; lab sync", False)
            elif not percent.in_step(data, text.decode()):
                remedy = f'lab sync; git add "{script}" "{notebook}"'
                yield Finding(notebook, "and its .py do not say the same", remedy)
        except (LabError, UnicodeDecodeError) as error:
            remedy = "reword it; lab sync; git add both halves"
            yield Finding(notebook, f"cannot be compared: {error}", remedy, False)


def _stems(paths) -> set[str]:
    """Drop the suffixes."""
    return {path.rsplit(".", 1)[0] for path in paths}


def guard(root: Path, staged: bool, files: list[str] = (), fix: bool = False) -> int:
    """Refuse what is not clean, paired and in step in the repository at `root`; return 1 then.

    If `staged`, it checks what the next commit would change, and `files` (pre-commit can name
    all); else all that the index holds, or that git is pushing. With `fix`, such pairs are
    synced on disk, so that only `git add` is left to do.
    """
    pushed = None if staged else os.environ.get("PRE_COMMIT_LOCAL_BRANCH")
    index, head = tracked(root, pushed), tracked(root, "HEAD")
    changed = {path for path, _ in index.items() ^ head.items()}
    stems = _stems(changed | (set(files) & index.keys()) if staged else index)
    findings = list(_judge(root, index, head, stems)) if stems else []
    for finding in findings:
        print(f"{finding.path} {finding.what}\n    type: {finding.remedy}")
    mended = fix and stems and _mend(root, index, head, stems, findings)
    return 1 if findings or mended else 0


def _has_stash() -> bool:
    """Tell whether pre-commit may take back what is written (on Windows, its id is not known)."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = Path(os.environ.get("PRE_COMMIT_HOME") or f"{cache}/pre-commit").expanduser()
    patches = home.glob(f"patch*-{os.getppid()}")  # an old one may be of another process
    return os.name == "nt" or any(time.time() - one.stat().st_mtime < 3600 for one in patches)


def _mend(root: Path, index: dict, head: dict, stems: set[str], findings: list[Finding]) -> bool:
    """Bring pairs in step on disk: the refused ones, and those that a hook just reformatted."""
    from . import pairs

    changed = git(root, "diff", "--name-only", "-z", "--diff-filter=M", "--", "notebooks/*.py")
    asked = _stems(changed.stdout.split("\0")) & stems
    asked |= _stems(f.path for f in findings if f.mendable)
    asked -= _stems(f.path for f in findings if not f.mendable)
    if asked and _has_stash():
        print("pre-commit may have put aside what is not staged, so nothing is written. Type:")
        print("    lab sync; git add both halves; then commit both")
        return True
    # a new notebook is as its author wrote it; but where one is gone, that one may be renamed
    added = index.keys() - head.keys() if head.keys() <= index.keys() else set()
    new = {stem for stem in asked if {f"{stem}.ipynb", f"{stem}.py"} <= added}
    for stem in sorted(new):
        print(f"{stem}.ipynb is new, so no hook changes it\n    type: lab sync; git add notebooks")
    known = [root / stem for stem in sorted(asked - new)]
    known = [stem for stem in pairs.stems(root) if stem in known] if known else []
    written = pairs.bring_in_step(root, known)[0]
    scripts = {name for name in written if name.endswith(".py")}
    if names := " ".join(f'"{name}"' for name in sorted(scripts - index.keys())):
        print(f"If ruff is to change them: ruff check --fix {names}; ruff format {names}; lab sync")
    if edited := scripts & index.keys():  # or ruff's hook would refuse them next time
        call([sys.executable, "-m", "ruff", "format", "--quiet", *edited], cwd=root)
        pairs.bring_in_step(root, known)
    if written:
        print("The files on disk are in step now: git add both halves, then commit both.")
    return bool(written or new)


def dirty_history(root: Path) -> list[tuple[str, str]]:
    """Return what the guard refuses in the last commit of `root`, and what mends each."""
    tree = tracked(root, "HEAD")
    findings = list(_judge(root, tree, {}, _stems(tree)))
    new = "git add notebooks && " if any("is missing" in f.what for f in findings) else ""
    command = f'lab sync && {new}git add --renormalize . && git commit -m "Mend notebooks"'
    return [(f"{f.path} {f.what}", command if f.mendable else f.remedy) for f in findings]
