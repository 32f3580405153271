"""Both halves of a notebook in step, by content and never by time; and git's merge of notebooks.

A pair is `x.py`, percent text to read, review and edit, and `x.ipynb`, the same cells for Jupyter.
Neither is the master: a person's edit in either is carried over by a three-way merge against what
both last said, in a commit or after a sync.
"""

import os
import re
import sys
from pathlib import Path

from . import bases, nbfilter
from .percent import build, has_markers, is_paired, merge_rest, normal, refuse_odd_lines, text_of
from .project import LabError, git, write_whole


def _read(path: Path) -> bytes | None:
    """Read a half; None if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _decoded(script: bytes | None, name: str) -> str | None:
    """Return the text of a `.py`, if there is one; LabError if it is no text."""
    try:
        return None if script is None else script.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise LabError(f"{name} is not UTF-8; save it as UTF-8") from None


def read_half(path: Path) -> str | None:
    """Read the `.py` or README at `path`; None if there is none, LabError if it is no text."""
    return _decoded(_read(path), path.name)


def half(stem: Path, suffix: str) -> Path:
    """Return the half of the pair `stem` with a `suffix` (`lr_0.1` is a name without one)."""
    return stem.with_name(stem.name + suffix)


def stems(root: Path) -> list[Path]:
    """List the pairs, and halves of pairs, under `root`, as paths without suffix."""
    found = set()
    for path in (root / "notebooks").rglob("*"):
        # less locks of Emacs, what Jupyter is saving, what macOS leaves on other disks
        if "/." in path.relative_to(root).as_posix() or path.suffix not in (".py", ".ipynb"):
            continue
        data = _read(path.with_suffix(".ipynb"))
        paired = b"# %%" in path.read_bytes() if data is None else is_paired(nbfilter.parse(data))
        if paired:
            found.add(path.with_name(path.stem))
    return sorted(found)


def find_notebook(root: Path, name: str) -> Path:
    """Find a pair under `root` by its `name`, the name's beginning, or a path; else LabError."""
    known = stems(root)
    for folder in (Path.cwd(), root / "notebooks", root):
        for stem in (folder / name, folder / name.removesuffix(".py").removesuffix(".ipynb")):
            if (stem := Path(os.path.normpath(stem))) in known:
                return stem
    begun = [stem for stem in known if name and stem.name.startswith(name)]
    if len(begun) == 1:
        return begun[0]
    names = ", ".join(stem.name for stem in begun or known) or "none yet; lab new makes one"
    raise LabError(f"no notebook is {name!r} alone; there are: {names}")


def write_pair(root: Path, stem: Path, text: str) -> None:
    """Write a new pair `stem` under `root` from percent `text`, so that edits of it are known.

    LabError if a half could not hold it.
    """
    try:
        write_whole(half(stem, ".py"), text)
        _step(root, stem, bases.new_backup(root))
    except BaseException:  # a full disk: half a pair would hold its name
        for suffix in (".py", ".ipynb"):
            half(stem, suffix).unlink(missing_ok=True)
        raise


def merge_driver(base: str, ours: str, theirs: str, path: str) -> int:
    """Merge a notebook for git, which gives three temporary files and the notebook's `path`.

    Edits of different places are merged into `ours`; if `ours` and `theirs` both changed the
    same place of `base`, `ours` keeps its version, valid JSON, and 1 is returned.
    """
    contents = [Path(name).read_bytes() for name in (ours, base, theirs)]
    notebooks = [nbfilter.parse(data) for data in contents]
    if all(nb and is_paired(nb) for nb in notebooks):
        names = ("ours", "base", "theirs")
        merged, conflict = bases.merge(Path.cwd(), names, *map(text_of, contents))
        if not conflict:
            result = build(merged, notebooks[0], notebooks[2])
            if merge_rest(result, *notebooks):
                write_whole(Path(ours), nbfilter.dumps(nbfilter.strip(result)))
                return 0
        merge_rest(notebooks[0], *notebooks)  # pictures: no `.py` will bring them
        contents[0] = nbfilter.dumps(nbfilter.strip(notebooks[0]))
    # other bytes than HEAD's: else git would merge into a file with edits that no commit has
    write_whole(Path(ours), contents[0] + b"\n")
    script = Path(path).with_suffix(".py").as_posix()
    way = f"""Resolve
     "{script}", then type: lab sync; git add "{script}" "{path}" (reports/, too: see README)
     (if it has no conflict, first write into it what git diff ":1:{path}" ":3:{path}" shows)"""
    if not (path.startswith("notebooks/") and is_paired(notebooks[0])):  # it has no other half
        way = f'Choose:\n     git checkout --ours "{path}" (or --theirs); git add "{path}"'
    what = "both sides changed the same place; it now holds one side"
    print(f"lab: {path}: {what}. {way}", file=sys.stderr)
    return 1


def _plan(root: Path, halves: dict[Path, bytes | None]) -> dict[Path, bytes]:
    """Say what brings two halves in step: their content, if any; LabError if a person must."""
    (notebook, data), (script, raw) = halves.items()
    name = script.relative_to(root).with_suffix("").as_posix()
    text = _decoded(raw, script.name)
    if text is not None:
        if has_markers(text):
            raise LabError("the .py holds conflict markers; resolve them, then type: lab sync")
        refuse_odd_lines(text)
    if data is None or text is None:
        gone, there = (notebook, script) if data is None else (script, notebook)
        if not git(root, "cat-file", "-e", f"HEAD:{name}{gone.suffix}", check=False).returncode:
            way = f'(git rm, git mv), or type: git restore "{name}{gone.suffix}"'
            raise LabError(f"one half is gone: delete or rename the other, too {way}")
        deleted = ("diff", "--name-only", "-z", "--no-renames", "--diff-filter=D", "--relative")
        for old in git(root, *deleted, "HEAD", "--", "notebooks", check=False).stdout.split("\0"):
            left = old.removesuffix(there.suffix) + gone.suffix
            if left != old and (root / left).exists():  # it has the outputs, the ids
                way = f'git mv "{left}" "{name}{gone.suffix}"; else first: git rm "{left}"'
                raise LabError(f'is this "{old}", renamed? Then type: {way}')
        text = text_of(data, nbfilter.source) if text is None else text
        return {notebook: data or nbfilter.dumps(build(text)), script: text.encode()}
    mine, wanted = normal(text), text_of(data)
    if mine == wanted:
        return {}
    base = bases.merge_base(root, script, notebook, (mine, wanted))
    ways = f'type: jupytext --update --to ipynb "{name}.py"; else: '
    ways += f'jupytext --to py:percent "{name}.ipynb". Run changed cells again'
    if base is None:
        raise LabError(
            "the halves differ, and nothing tells which one was edited. Correct one of them; then, "
            f"if you corrected the .py, {ways}"
        )
    base = bases.latest(base, mine, wanted)
    merged, conflict = bases.merge(root, (script.name, "base", notebook.name), text, base, wanted)
    if base == mine and (conflict or normal(merged) != wanted):
        merged, conflict = wanted, False  # only a person's spacing stood in the way
    if not conflict:
        changed = nbfilter.dumps(build(merged, nbfilter.parse(data)))
        return {notebook: data if normal(merged) == wanted else changed, script: merged.encode()}
    shown = "".join(re.findall(rf"(?s)<<<<<<< .*?>>>>>>> {re.escape(notebook.name)}\n", merged))
    raise LabError(
        "both halves were changed in the same place; edit both until they agree, then: lab sync. "
        f"Or keep one of them; if it is the .py, {ways}:\n{shown}"
    )


def _step(root: Path, stem: Path, backup: Path, edited: set[str] = frozenset()) -> list[str]:
    """Bring one pair in step, after a backup; return the names of the files that were written."""
    while True:
        halves = {path: _read(path) for path in (half(stem, ".ipynb"), half(stem, ".py"))}
        files = _plan(root, halves)
        before = {path: halves[path] for path in files if halves[path] is not None}
        bases.keep(root, backup / "before", before)
        # whoever saved a half meanwhile, Jupyter or another sync, is not to be overwritten
        if all(_read(path) == content for path, content in halves.items()):
            break
    changed = []
    for path, content in files.items():
        if path not in before or before[path].replace(b"\r\n", b"\n") != content:
            write_whole(path.resolve(), content)  # a link stays one
            changed.append(path.relative_to(root).as_posix())
    if files:
        half(stem, ".py").touch()  # Jupyter opens none that is older than its .ipynb
        bases.note(root, files, backup, "after")
    elif half(stem, ".py").relative_to(root).as_posix() in edited:  # Jupyter wrote both
        bases.note(root, halves, backup, "seen")
    return changed


def _undo(root: Path) -> int:
    """Put back what the last sync replaced."""
    after = max(bases.backups(root).glob("*[0-9]/after"), default=None)
    if after is None:
        raise LabError("there is no sync to undo")
    names = [path.relative_to(after) for path in after.rglob("*.*")]
    before = after.with_name("before")
    for name in names:
        # as before: an undo that was killed goes on
        if _read(root / name) not in ((after / name).read_bytes(), _read(before / name)):
            raise LabError(f"{name} was edited since, so nothing is undone; old copies: {before}")
    for name in names:
        content = _read(before / name)
        if content is None:
            (root / name).unlink(missing_ok=True)
        else:
            write_whole((root / name).resolve(), content)
        print(f"{name.as_posix()}: {'gone, ' if content is None else ''}as before the last sync")
    after.parent.rename(after.parent.with_suffix(".undone"))
    return 0


def sync(root: Path, notebooks: list[str], undo: bool = False) -> int:
    """Bring both halves of `notebooks` in `root`, or of all, in step; or `undo` the last sync.

    Returns 1 if a pair needs a person's decision, and was left untouched.
    """
    if undo:
        return _undo(root)
    found = [find_notebook(root, name) for name in notebooks] or stems(root)
    return 1 if bring_in_step(root, found)[1] else 0


def bring_in_step(root: Path, found: list[Path]) -> tuple[list[str], int]:
    """Bring the pairs `found` under `root` in step; return files written and number of refusals."""
    changed, refused = [], 0
    backup, edited = bases.new_backup(root), bases.edited(root) if found else set()
    for stem in found:
        try:
            changed += _step(root, stem, backup, edited)
        except LabError as error:
            print(f"{stem.relative_to(root).as_posix()}: {error}")
            refused += 1
    for name in changed:
        print(f"{name}: brought in step")
    bases.prune(root)
    return changed, refused
