"""Read a notebook's `.py` half as cells with line numbers, and start a new one."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .project import LabError, package_of

UNWRITTEN_AGAIN = ("1. Purpose", "7. Conclusion and next steps")  # in a notebook made --from one
MARKER = r"# ?%%(?=\s|$)"  # of a cell
PROSE = MARKER + r".*\[(?:markdown|md)\]"


@dataclass
class Cell:
    """A cell of a `.py` half; `line` is the number of its first line of source."""

    kind: str  # "code" or "markdown"
    source: str
    line: int

    def find(self, pattern: str | re.Pattern) -> int | None:
        """Return the line of the file on which a pattern occurs, if it does."""
        found = re.search(pattern, self.source)
        return found and self.line + self.source.count("\n", 0, found.start())


def read_cells(text: str) -> list[Cell]:
    """Read the `text` of a `.py` half, jupytext's percent format, without the wait for jupytext.

    Empty cells are left out, and so are comment marks before prose and magics.
    """
    cells = [Cell("code", "", 1)]
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(MARKER, line):
            kind = "markdown" if re.match(PROSE, line) else "code"
            cells.append(Cell(kind, "", number + 1))
            continue
        mark = r"^()# ?" if cells[-1].kind == "markdown" else r"^(\s*)# (?=[%!])"
        cells[-1].source += re.sub(mark, r"\1", line) + "\n"
    return [cell for cell in cells if cell.source.strip()]


def digest(cells: list[Cell]) -> str:
    """Hash what a notebook says; blank lines around cells do not count."""
    content = json.dumps([[cell.kind, cell.source.strip()] for cell in cells])
    return hashlib.sha256(content.encode()).hexdigest()


def plainly_in_step(ipynb: Path, cells: list[Cell]) -> bool:
    """Tell whether an `.ipynb` holds these very cells; if not, jupytext may still say it does."""
    try:
        theirs = json.loads(ipynb.read_bytes())["cells"]
        said = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in theirs]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    ours = [(cell.kind, cell.source.strip()) for cell in cells]
    return [pair for pair in said if pair[1]] == ours


def new(root: Path, title: str, source: str | None = None) -> int:
    """Write the next numbered notebook in `root`, both halves, with a `title` in any script.

    With a `source`, another notebook, it copies all but purpose and conclusion from it.
    LabError if the title is empty or its file name taken.
    """
    from . import pairs

    title = " ".join("".join(c if c.isprintable() else " " for c in title).split())
    if not title:
        raise LabError('the title is empty; ask the question: lab new "Does dropout help?"')
    if re.fullmatch(r"\S*\?", title):
        title += " #"  # the mark that closes a heading; else jupytext takes it for IPython's help
    (folder := root / "notebooks").mkdir(exist_ok=True)
    halves = (path for path in folder.rglob("*.*") if path.suffix in (".py", ".ipynb"))
    taken = {path.stem for path in halves if folder / "scratch" not in path.parents}
    name = _file_name(title)
    for stem in sorted(taken) if name else ():
        if re.fullmatch(r"\d+_" + name, stem):
            raise LabError(f"notebooks/{stem} has that name; choose another, or mend it: lab sync")
    numbers = [int(found[0]) for stem in taken if (found := re.match(r"0*\d{1,3}(?=[_-]|$)", stem))]
    stem = f"{max(numbers, default=0) + 1:02}_{name or 'experiment'}"
    text = Path(__file__).with_name("skeleton.txt").read_text(encoding="utf-8")
    text = text.replace("PACKAGE", package_of(root))
    if source:
        old = pairs.half(pairs.find_notebook(root, source), ".py")
        text = _start_from(old.read_text(encoding="utf-8-sig"), text)
    pairs.write_pair(root, folder / stem, text.replace("# # TITLE", f"# # {title}", 1))
    print(f"wrote notebooks/{stem}.py and .ipynb; write section 1, then: lab report {stem}")
    return 0


def _file_name(title: str) -> str:
    """Make a file name that every system and tool can read; empty if no letter is Latin."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "_", plain.replace("'", "")).strip("_")
    return name if len(name) <= 60 else name[:60].rpartition("_")[0] or name[:60]


def _start_from(text: str, skeleton: str) -> str:
    """Take a notebook's cells, with a new title and the prompts where it must be written anew."""
    prompts = {section: cell for section, cell in _by_section(skeleton) if section in cell}
    cells = []
    for section, cell in _by_section(re.sub(r"(?m)^# # .*$", "# # TITLE", text, count=1)):
        if section not in UNWRITTEN_AGAIN or not re.match(PROSE, cell):
            cells.append(cell)
        elif section in prompts:
            cells.append(prompts.pop(section).rstrip() + "\n\n")
    return "".join(cells).rstrip() + "\n"


def _by_section(text: str) -> Iterator[tuple[str, str]]:
    """Yield each cell of a percent text as it stands, after the heading of its section."""
    section = ""
    for cell in re.split(rf"(?m)^(?={MARKER})", text):
        prose = re.match(PROSE, cell)
        heading = prose and re.search(r"(?m)^# ## +(.*\S)", cell)
        section = heading[1] if heading else section
        yield section, cell
