"""Notebooks as percent text and back: what the two halves of a pair say to each other.

jupytext converts. Which cell is which, and so where ids, attachments and outputs belong, is decided
here, because an output must never stand under a cell that did not make it.
"""

import ast
import json
import re
import sys
import warnings
import zlib
from collections import ChainMap, Counter
from collections.abc import Callable
from difflib import SequenceMatcher
from typing import Any

from . import nbfilter
from .notebooks import read_cells
from .project import LabError

sys.modules.setdefault("rfc3987_syntax", None)  # nbformat can do without, and is 2 s quicker

# As in notebooks/jupytext.toml, which tells Jupyter the same.
FORMAT = {"extension": ".py", "format_name": "percent",
          "notebook_metadata_filter": "-all", "cell_metadata_filter": "all"}  # fmt: skip

BREAKS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # at which Python, and so jupytext, ends a line, too
FRAGILE = re.compile(rf"[{BREAKS}]|(?m:^)\s*#?\s*(?:%%|<codecell>|In\[)")  # may begin a cell


def _jupytext():
    """Import jupytext, which costs 0.3 s."""
    warnings.filterwarnings("ignore", "The following metadata cannot")  # it stays in the .ipynb
    import jupytext

    return jupytext


def node(nb: dict) -> Any:
    """Return the notebook `nb` as nbformat's object, each source one string."""
    from nbformat import from_dict

    cells = [{**cell, "source": nbfilter.source(cell)} for cell in nb["cells"]]
    return from_dict({**nb, "cells": cells})


def _said(cell: dict) -> str:
    """Return a cell's source without what is only spacing in a `.py`.

    Blank lines at its ends; and at the ends of prose's lines white space, which ruff takes away.
    """
    said = nbfilter.source(cell).strip("\n")
    return said if cell.get("cell_type") == "code" else re.sub(r"(?m)[ \t]+$", "", said)


def _lines(cell: dict, before: dict) -> list[str]:
    """Return a cell's source; lines of prose keep the white space that they ended in `before`."""
    lines = nbfilter.source(cell).strip("\n").split("\n")
    if cell["cell_type"] != "code":
        ends = {line.rstrip(): line for line in nbfilter.source(before).split("\n")}
        lines = [ends.get(line, line) for line in lines]
    return "\n".join(lines).splitlines(keepends=True)


def _text(nb: dict, said: Callable = _said) -> str:
    """Write a notebook's cells as percent text, in the one form that jupytext gives them."""
    cells = [{**cell, "source": said(cell)} for cell in nbfilter.strip(nb)["cells"]]
    bare = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}
    bare = json.loads(json.dumps(bare, sort_keys=True))  # the order of metadata says nothing
    return _jupytext().writes(node(bare), fmt=dict(FORMAT))


def text_of(data: bytes, said: Callable = _said) -> str:
    """Return the percent text of `data`, an `.ipynb`, by what `said` returns; else LabError."""
    nb = nbfilter.parse(data)
    if nb is None:
        raise LabError("it is no notebook of nbformat 4; restore it with git, or save it again")
    try:
        lost = next((number for number, cell in enumerate(nb["cells"], 1) if not _fits(cell)), None)
        text = _text(nb, said)
    except Exception as error:  # jupytext raises whatever its parsers do
        raise LabError(f"jupytext cannot read it ({error}); save it in Jupyter again") from error
    if lost:
        what = "has a line that would begin a cell in the .py (as `# %%` does), or an odd line end"
        raise LabError(f"cell {lost} {what}; split the cell there, or write it otherwise")
    refuse_odd_lines(text)
    return text


def _fits(cell: dict) -> bool:
    """Tell whether a cell comes back from a `.py` as it is; most plainly do."""
    said = _said(cell)
    if not FRAGILE.search(said):
        return True
    text = _text({"metadata": {}, "cells": [cell]})
    back = [(one.cell_type, _said(one)) for one in _jupytext().reads(text, fmt="py:percent").cells]
    return back == [(cell["cell_type"], said)]


def refuse_odd_lines(text: str) -> None:
    """LabError if jupytext, also in JupyterLab, would misread percent `text`.

    That is odd line ends, and headings that it takes for commands, like `# cat or dog`, `# Why?`:
    it strips their `#`.
    """
    from jupytext.magics import is_magic

    if odd := re.search(f"[{BREAKS}]", text):
        number = text.count("\n", 0, odd.start()) + 1
        raise LabError(f"line {number} of the .py has an odd line end in it; write it otherwise")
    for cell in [cell for cell in read_cells(text) if cell.kind == "markdown"]:
        for number, line in enumerate(cell.source.split("\n"), cell.line):
            if line.startswith("#") and is_magic(f"# {line}", "python", True, True):
                why = f"jupytext takes the heading {line!r} for a command, and strips a #"
                raise LabError(f"line {number} of the .py: {why}; word it otherwise")


def normal(text: str) -> str:
    """Return a percent text in the one form that jupytext gives its cells."""
    return _text({"metadata": {}, "cells": _jupytext().reads(text, fmt="py:percent").cells})


def in_step(ipynb: bytes, text: str) -> bool:
    """Tell whether both halves of a pair, `ipynb` and percent `text`, say the same."""
    wanted = text_of(ipynb)
    if wanted == text:  # four times as quick
        return True
    refuse_odd_lines(text)
    return wanted == normal(text)


def has_markers(text: str) -> bool:
    """Tell whether a merge left its conflict markers in `text`."""
    return any(line.startswith(("<<<<<<< ", ">>>>>>> ")) for line in text.splitlines())


def _same_program(new: str, old: str) -> bool:
    """Tell whether a cell was at most reformatted or commented, so that its outputs are its."""
    # magics are no Python, and a formatter leaves them alone: so as strings
    magic = r"(?m)^(\s*)((?:\w[\w, ]*= *)?[%!].*|\??[\w.]+\?+)$"
    a, b = (re.sub(magic, lambda m: m[1] + repr(m[2]), said) for said in (new, old))
    try:
        return new == old or ast.dump(ast.parse(a)) == ast.dump(ast.parse(b))
    except (SyntaxError, ValueError, RecursionError):
        return False


def _match(new: list[dict], old: list[dict]) -> tuple[dict[int, dict], dict[int, dict]]:
    """Find each new cell's old self: those that stayed the same, and those edited in place."""
    a, b = ([(c["cell_type"], _said(c)) for c in cells] for cells in (new, old))
    shorter = min(len(a), len(b))
    head = next((i for i in range(shorter) if a[i] != b[i]), shorter)
    tail = 0
    while tail < shorter - head and a[-1 - tail] == b[-1 - tail]:
        tail += 1
    same = {i: i for i in range(head)} | {len(a) - i: len(b) - i for i in range(1, tail + 1)}
    edited = {}
    x, y = a[head : len(a) - tail], b[head : len(b) - tail]
    counts = Counter(x), Counter(y)
    # of several equal cells, nobody knows which is new; so they are compared as if all were
    x, y = (
        [key if counts[0][key] == counts[1][key] else (key[0], side) for key in keys]
        for side, keys in ((0, x), (1, y))
    )
    for kind, i, i_end, j, j_end in SequenceMatcher(None, x, y, autojunk=False).get_opcodes():
        pairs = zip(range(head + i, head + i_end), range(head + j, head + j_end), strict=False)
        if kind == "equal":
            same.update(pairs)
        elif kind == "replace":
            edited.update((i, j) for i, j in pairs if a[i][0] == b[j][0])
    for i, key in enumerate(x):  # moved
        if head + i not in same and counts[0][key] == counts[1][key] == 1:
            same[head + i] = head + y.index(key)
    kept = set(same.values())
    edited = {i: j for i, j in edited.items() if i not in same and j not in kept}
    return {i: old[j] for i, j in same.items()}, {i: old[j] for i, j in edited.items()}


def _new_id(source: str, used: set) -> str:
    """Name a new cell by its content: the same edit twice must give the same bytes."""
    number = 0
    while (name := f"{zlib.crc32(f'{number}{source}'.encode()):08x}") in used:
        number += 1
    used.add(name)
    return name


def build(text: str, *old: dict) -> dict:
    """Make a notebook of a percent text.

    Parameters
    ----------
    text : str
        Percent text.
    *old : dict
        Notebooks that lend metadata (the first) and their cells' ids, attachments and outputs (the
        first before the second); an output goes only to the cell that made it.

    Returns
    -------
    dict
        The notebook; the same arguments give the same one, down to the ids of new cells.
    """
    new = _jupytext().reads(text, fmt="py:percent").cells
    matches = [_match(new, nb["cells"]) for nb in old]
    known = ChainMap(*(same for same, _ in matches), *(edited for _, edited in matches))
    first = old[0] if old else {"metadata": nbfilter.PYTHON, "nbformat": 4, "nbformat_minor": 5}
    used = {cell.get("id") for cell in known.values()}
    cells = []
    for i, cell in enumerate(new):
        before = known.get(i, {"metadata": {}, "source": ""})
        # of the others jupytext can write no key with other characters
        hidden = {
            k: v
            for k, v in before["metadata"].items()
            if k in nbfilter.VOLATILE_CELL or re.search(r"(?a)[^\w.@/-]", k)
        }
        shown = {k: v for k, v in cell.metadata.items() if k not in nbfilter.VOLATILE_CELL}
        made = {**before, "cell_type": cell.cell_type, "metadata": {**shown, **hidden}}
        said, was = _said(cell), _said(before)
        if said != was:
            made["source"] = _lines(cell, before)
        if cell.cell_type == "code" and not (i in known and _same_program(said, was)):
            made |= {"outputs": [], "execution_count": None}
        if first["nbformat_minor"] >= 5 and "id" not in made:
            made["id"] = _new_id(said, used)
        cells.append(made)
    return {**first, "cells": cells}


def _key(cell: dict) -> str:
    """Name a cell: by its id, which nbformat has since 4.5."""
    return cell.get("id") or nbfilter.source(cell)


def merge_rest(result: dict, *sides: dict) -> bool:
    """Merge what no percent text holds: cells' attachments, and the notebook's metadata.

    The `sides` are ours, the base and theirs; `result` has their cells merged. False where both
    changed the same thing.
    """
    places = [(result["metadata"], [nb["metadata"] for nb in sides], None)]
    known = [{_key(cell): cell for cell in nb["cells"]} for nb in sides]
    clean = True
    for cell in result["cells"]:
        same = [cells.get(_key(cell)) for cells in known]
        if all(same):
            places.append((cell, same, "attachments"))
    for target, (ours, base, theirs), only in places:
        for name in [only] if only else {*ours, *base, *theirs}:
            mine, old, other = (side.get(name) for side in (ours, base, theirs))
            if mine != old and other not in (mine, old):
                clean = False
                continue
            target[name] = other if mine == old else mine
            if target[name] is None:
                del target[name]
    return clean


def is_paired(nb: dict | None) -> bool:
    """Tell whether `nb` has a `.py` half, as all have but those known to be R, Julia, ..."""
    return nb is None or nbfilter.language(nb) in ("python", None)
