"""Git's filter for notebooks: outputs stay out of commits, on disk, and come back on checkout.

`lab setup` copies this file into the git directory, where no checkout can take it away, and git
runs it there for every notebook it stores (`clean`), writes (`smudge`) or shows (`text`). So:
the standard library alone, quick to start, and what it does not understand passes through as it
is; the guard refuses that later.
"""

from __future__ import annotations  # python3 of the system may be an old one

import json
import os
import sys
import zlib

# Written by tools, differs between people or runs, means nothing to a reader.
VOLATILE_NOTEBOOK = {"jupytext", "signature", "widgets", "papermill", "vscode", "celltoolbar",
                     "varInspector", "toc", "interpreter", "nteract", "kernel_info"}  # fmt: skip
VOLATILE_CELL = {"collapsed", "scrolled", "execution", "ExecuteTime", "heading_collapsed",
                 "hidden", "trusted", "vscode", "papermill", "lines_to_next_cell",
                 "executionInfo", "outputId", "colab", "referenced_widgets",  # Colab's
                 "execution_start", "execution_millis", "execution_context_id",
                 "jupyter", "jp-MarkdownHeadingCollapsed"}  # fmt: skip
PYTHON = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
          "language_info": {"name": "python"}}  # fmt: skip
MEMORY_BYTES = 200_000_000  # of outputs kept for a notebook; beyond, all but the newest three go
SEARCHED = 50  # states of a notebook that a cell's outputs are looked for in: checkout waits for it


def parse(data: bytes) -> dict | None:
    """Read `data` as a notebook; None if it is not a notebook of nbformat 4."""
    try:
        nb = json.loads(data)
        cells = nb["cells"]
        whole = nb["nbformat"] == 4 and isinstance(cells, list)
        whole = whole and all(isinstance(cell["cell_type"] + source(cell), str) for cell in cells)
        whole = whole and all(isinstance(part["metadata"], dict) for part in (nb, *cells))
        language(nb)  # odd metadata raise an error
        return nb if whole else None
    except (AttributeError, ValueError, KeyError, TypeError, RecursionError):
        return None


def source(cell: dict) -> str:
    """Return a cell's source, which a file may hold as a string or as a list of lines."""
    return "".join(cell["source"])


def dumps(nb: dict, errors: str = "backslashreplace") -> bytes:
    """Write the notebook `nb` as Jupyter does: keys sorted, one space of indent, UTF-8.

    Half an emoji, which UTF-8 cannot hold, is escaped, or treated as `errors` says.
    """
    text = json.dumps(nb, ensure_ascii=False, indent=1, sort_keys=True)
    return f"{text}\n".encode("utf-8", errors)


def language(nb: dict) -> str | None:
    """Return the language of the notebook `nb` in lower case, None if it does not say."""
    metadata = nb["metadata"]
    named = (metadata.get("kernelspec") or {}).get("language")
    named = named or (metadata.get("language_info") or {}).get("name")
    return "python" if named == "ipython" else named and named.lower()


def strip(nb: dict) -> dict:
    """Return the notebook `nb` as it is committed; ids, tags and attachments stay."""
    metadata = {k: v for k, v in nb["metadata"].items() if k not in VOLATILE_NOTEBOOK}
    if language(nb) in ("python", None):
        metadata.update(PYTHON)  # else the diff says which Python and which kernel each of us has
    elif isinstance(info := metadata.get("language_info"), dict):
        metadata["language_info"] = {k: v for k, v in info.items() if k != "version"}
    cells = []
    for cell in nb["cells"]:
        kept = {k: v for k, v in cell["metadata"].items() if k not in VOLATILE_CELL}
        cell = {**cell, "metadata": kept, "source": source(cell).splitlines(keepends=True)}
        cell.pop("prompt_number", None)
        for key, empty in (("outputs", []), ("execution_count", None)):
            if cell["cell_type"] == "code" or key in cell:
                cell[key] = empty
        cells.append(cell)
    return {**nb, "metadata": metadata, "cells": cells}


def clean(data: bytes) -> bytes:
    """Return `data` as it is committed, in canonical JSON; what is not understood, as it is."""
    try:
        return dumps(strip(parse(data)), "strict")
    except (AttributeError, TypeError, ValueError, RecursionError):  # no notebook; half an emoji
        return data


def _cells(nb: dict):
    """Yield each code cell with what identifies it: id, source, and which of how many such."""
    cells = [cell for cell in nb["cells"] if cell["cell_type"] == "code"]
    keys = [f"{cell.get('id', '')}\n{source(cell)}" for cell in cells]
    for number, key in enumerate(keys):
        yield f"{keys[:number].count(key)} of {keys.count(key)}\n{key}", cells[number]


def _name(content: str | bytes) -> str:
    """Name a path or a content; cells are compared in full, so a collision does no harm."""
    return f"{zlib.crc32(os.fsencode(content)):08x}"


def _newest(folder: str, start: str = "", end: str = "") -> list[str]:
    """List the memory's files, newest first."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = [os.path.join(folder, n) for n in names if n.startswith(start) and n.endswith(end)]
    return sorted(found, key=os.path.getmtime, reverse=True)


def remember(folder: str, path: str, data: bytes, cleaned: bytes) -> None:
    """Keep the outputs of `data`, the notebook at `path`, in `folder`, by its `cleaned` content."""
    nb = parse(data)
    if nb is None or not any(cell.get("outputs") for _, cell in _cells(nb)):
        return  # a notebook without outputs is no reason to forget those that it had
    often, cells = (*PYTHON, *VOLATILE_NOTEBOOK), {}
    for key, cell in _cells(nb):
        cells[key] = {k: cell.get(k) for k in ("outputs", "execution_count")}
        cells[key]["metadata"] = {k: v for k, v in cell["metadata"].items() if k in VOLATILE_CELL}
    shared = {k: v for k, v in nb["metadata"].items() if k in often}
    os.makedirs(folder, exist_ok=True)
    target = os.path.join(folder, f"{_name(path)}-{_name(cleaned)}.json")
    scratch = f"{target}.{os.getpid()}"  # two processes at once; killed in the middle
    with open(scratch, "w", encoding="utf-8", errors="surrogatepass") as file:
        json.dump({"metadata": shared, "cells": cells}, file)
    os.replace(scratch, target)
    total = 0
    for number, name in enumerate(_newest(folder, _name(path))):
        total += os.path.getsize(name)
        if number >= 3 and total > MEMORY_BYTES:
            os.unlink(name)


def smudge(folder: str, path: str, data: bytes) -> bytes:
    """Return `data`, the notebook at `path`, with the outputs that `folder` remembers of its cells.

    If exactly this content was here before, its outputs; else, as after a merge, the newest that
    each cell gave in this notebook, or in the one whose name this one had before.
    """
    nb = parse(data)
    if nb is None:
        return data
    whole = data.rstrip() + b"\n"  # less the line end that our merge driver adds
    exact = _newest(folder, end=f"-{_name(whole)}.json")  # of any path: it may have been renamed
    exact.sort(key=lambda name: not os.path.basename(name).startswith(_name(path)))
    remembered: dict = {"metadata": {}, "cells": {}}
    own = _newest(folder, _name(path), ".json")
    for name in exact[:1] or (own or _newest(folder, end=".json"))[:SEARCHED]:
        with open(name, encoding="utf-8", errors="surrogatepass") as file:
            memory = json.load(file)
        for key, cell in memory["cells"].items():
            newer = remembered["cells"].get(key, cell)
            if cell["outputs"] and not (newer["outputs"] or newer["execution_count"]):
                del remembered["cells"][key]  # in a newer state it was not run
        remembered = {part: {**memory[part], **known} for part, known in remembered.items()}
    if not remembered["cells"]:
        return data
    for key, cell in _cells(nb):
        made = remembered["cells"].get(key)  # before outputs in git: those are safe there
        if made and (exact or own or cell.get("id")):  # of another notebook's cells, by id alone
            cell.update({**made, "metadata": {**cell["metadata"], **made["metadata"]}})
    if language(remembered) in (None, language(nb)):  # else it is another notebook's kernel
        nb["metadata"].update(remembered["metadata"])
    return dumps(nb)


def text(data: bytes) -> bytes:
    """Return the cells of the notebook `data` as text, for `git diff`."""
    nb = parse(data)
    if nb is None:
        return data
    lines = []
    for cell in strip(nb)["cells"]:
        kind = "" if cell["cell_type"] == "code" else f" [{cell['cell_type']}]"
        tags = f" {json.dumps(cell['metadata'], sort_keys=True)}" if cell["metadata"] else ""
        lines.append(f"# %%{kind}{tags}\n{source(cell)}\n\n")
    return "".join(lines).encode("utf-8", "surrogatepass")


def main() -> None:
    """Serve git: clean or smudge stdin, whose name is given, or show a file as text; to stdout."""
    command, path = sys.argv[-2:]
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "outputs")
    here = os.path.abspath(path)  # worktrees share the folder; git starts this at the top of each
    if command == "text":
        with open(path, "rb") as file:
            sys.stdout.buffer.write(text(file.read()))
        return
    result = data = sys.stdin.buffer.read()
    try:
        if command == "smudge":
            result = smudge(folder, here, data)
        else:
            result = clean(data)
            remember(folder, here, data, result)
    except Exception as error:  # never fail a git command: a full disk, a torn file
        print(f"lab: outputs of {path} were not saved or restored: {error}", file=sys.stderr)
    sys.stdout.buffer.write(result)


if __name__ == "__main__":
    main()
