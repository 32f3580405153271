"""`lab check`: does a notebook hold what its readers look for? Quick: no jupytext, no torch."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from . import pairs
from .credentials import SECRETS
from .notebooks import Cell, digest, plainly_in_step, read_cells
from .percent import has_markers, in_step
from .project import LabError, git
from .records import Record
from .results import readme_findings

PROMPT = "**To write:**"
SECTIONS = {  # title: what it needs (see NEEDS), and what to do about a prompt that is left
    "1. Purpose": ("prose", "write the hypothesis"),
    "2. Environment": ("code", "say what the run needs"),
    "3. Data": ("figure", "describe the data"),
    "4. Model": ("code", "say why the model is built this way"),
    "5. Training": ("training", "say how it is trained"),
    "6. Results": ("figure", "interpret the results"),
    "7. Conclusion and next steps": ("prose", "answer the hypothesis"),
}
NEEDS = {
    "prose": ("has no prose", r"\w"),
    "code": ("has no code", r"\S"),
    "figure": (
        "draws no figure",
        r"(?i)figures\.|plo?t|sns\.|px\.|chart|hist\w*\(|show|image\(|display",
    ),
    "training": ("neither runs train.py nor loads a record", r"train\.py|[Rr]ecord|find\("),
}
SEED = re.compile(
    r"(?i)\bseeds?[\"']?\s*(?::\s*int\s*)?[=:]\s*[\[(]?\d|for seed in|seed\w*\(\s*\w|--seed[ =]\d"
)
TRAINING = re.compile(r"train\.py|\.backward\(|\.fit\(|optimi[sz]er\.step\(|load_splits\(")
RUN_ID = re.compile(r"\b20\d{6}-\d{6}-[\w-]+-s\d+-[0-9a-f]{4}\b")
# no path: what is joined to a folder, a key of an HDF5 file, a formula that ends on this line
MACHINE = (
    r"(?<![\w.:/~})\]*>…-])(?<!\+ [\"']|\w\[[\"'])/(home|Users|root|mnt|media|scratch|Volumes|gpfs|"
    r"nfs|lustre|data|tmp)/[\w.]|(?<!\w)[A-Za-z]:(?:\\+|/)(?!(?:[^$'\"]|'(?=[(\\^_$}' ]))*\$"
    r"|math|\w+\s*\\(?:to|rightarrow)\b)\w[\w\\.-]+"
)
Found = Iterator[tuple[int, str, bool]]  # line, what and the remedy, does it stop a commit?


def check(root: Path, names: list[str], strict: bool = False) -> int:
    """Print what must be fixed in the notebooks `names` of `root`, or in all: a line each.

    Those in `notebooks/scratch` are skipped. Returns 1 if there is an error; with `strict`, a
    warning counts as an error.
    """
    asked = [pairs.find_notebook(root, name) for name in names] or pairs.stems(root)
    scratch = root / "notebooks" / "scratch"
    stems = [stem for stem in dict.fromkeys(asked) if scratch not in stem.parents]
    listed = git(root, "ls-files", "-z", "reports", "notebooks", check=False).stdout
    tracked = set(listed.split("\0"))
    found = []
    for stem in stems:
        path = pairs.half(stem, ".py").relative_to(root).as_posix()
        if "PRE_COMMIT" in os.environ and path not in tracked:
            continue  # a draft that git does not know stops no commit of others
        found += [(path, *finding) for finding in findings(root, stem, tracked)]
    found += [("README.md", *finding, False) for finding in readme_findings(root)]
    for path, line, text, _ in sorted(found, key=lambda finding: not finding[3]):  # errors first
        print(f"{path}:{line}: {text}")
    warnings = sum(not finding[3] for finding in found)
    if warnings and not strict:
        print(f"warnings ({warnings}) do not stop a commit; --strict counts them", file=sys.stderr)
    return int(len(found) > (0 if strict else warnings))


def findings(root: Path, stem: Path, tracked: set[str] | None = None) -> Found:
    """Yield line, finding and whether it stops a commit, for the pair `stem` under `root`.

    `tracked` is what git holds of `reports`; without it, the run's record is not looked for
    there.
    """
    text = pairs.read_half(pairs.half(stem, ".py"))
    if text is None:
        yield 1, "this half is missing; lab sync writes it, or says what to type", True
        return
    if has_markers(text):
        line = next(n for n, line in enumerate(text.splitlines(), 1) if has_markers(line))
        yield line, "conflict markers; resolve them", True
        return
    cells = read_cells(text)
    if not _in_step(pairs.half(stem, ".ipynb"), text, cells):
        remedy = "lab sync makes them agree, or shows what you must decide"
        yield 1, f"its two halves differ; {remedy}", False
    yield from _sections(cells)
    yield from _contents(root, cells)
    yield from _report(root, stem, cells, tracked)


def _sections(cells: list[Cell]) -> Found:
    """Find what is wrong with the seven sections."""
    if not any(cell.kind == "markdown" and cell.find(r"(?m)^# \S") for cell in cells):
        yield 1, "no title; begin with a cell that says `# The question`", True
    parts: list[tuple[str, int, list[Cell]]] = []
    for cell in cells:
        if cell.kind == "markdown" and (heading := re.search(r"(?m)^## +(.*\S)", cell.source)):
            parts.append((heading[1], cell.find(r"(?m)^## "), []))
        if parts:
            parts[-1][2].append(cell)
    order = [name for name, _, _ in parts]
    for name in SECTIONS:
        if name not in order:
            yield 1, f"section `## {name}` is missing; write it, in a cell of its own", True
    known = [name for name in SECTIONS if name in order]
    for name, line, inside in parts:
        first, known = known[:1], [other for other in known if other != name]
        if name not in SECTIONS:
            yield line, f"`## {name}` is none of the seven sections; make it level 3 (###)", True
        elif first != [name]:
            yield line, f"section `## {name}` is out of order or there twice; move it", True
        else:
            yield from _section(name, line, inside)


def _section(name: str, line: int, cells: list[Cell]) -> Found:
    """Find what a section lacks."""
    need, remedy = SECTIONS[name]
    prompts = [cell.find(re.escape(PROMPT)) for cell in cells if PROMPT in cell.source]
    for prompt in prompts:
        yield prompt, f"section {name[0]} still holds its prompt; {remedy}", False
    kind, mark = ("markdown", r"(?m)^#+ .*$") if need == "prose" else ("code", r"(?m)^\s*#.*$")
    text = re.sub(mark, "", "\n".join(cell.source for cell in cells if cell.kind == kind))
    lack, pattern = NEEDS[need]
    if not re.search(pattern, text):
        yield line, f"section {name[0]} {lack}; {remedy}", True
    elif name == "1. Purpose" and not prompts and not re.search(r"(?a:(?<![\w.-]))[-.]?\d", text):
        yield line, "the hypothesis has no number; say what is measured, and how much of it", False


def _contents(root: Path, cells: list[Cell]) -> Found:
    """Find what must not stand in any cell, and training before the seed."""
    seeded = False
    known = [re.escape(str(path)) for path in (root, Path.home()) if path.name]
    machine = re.compile(rf"{MACHINE}|(?<![\w.:/~-])({'|'.join(known)})(?![\w.-])")
    code = "\n".join(cell.source for cell in cells if cell.kind == "code")
    for cell in cells:
        parameters = cell.source if "\nrun = None" in cell.source else ""
        for name in re.findall(r"(?m)^(\w+) = ", parameters):
            if len(re.findall(rf"\b{name}\b", code)) < 2:
                yield cell.line, f"nothing reads the parameter {name}; add it to `arguments`", False
        for line, text in enumerate(cell.source.splitlines(), cell.line):
            if machine.search(text):
                yield line, "a path of this machine; write it relative to the project", True
            for name, pattern in SECRETS.items():
                if re.search(pattern, text):
                    yield line, f"this looks like {name}; revoke it, and read it from a file", True
            if RUN_ID.search(text):
                yield line, "a run's id, which the next run will change; print record.id", False
            if cell.kind == "markdown" or text.lstrip().startswith("#"):
                continue
            if re.match(r"\s+%{1,2}[a-z]+( |$)", text):  # jupytext takes the file for "hydrogen"
                yield line, "an indented magic, which Jupyter would comment out; unindent it", True
            seeded = seeded or SEED.search(text)
            if TRAINING.search(text) and not seeded:
                yield line, "data or training before any seed; set `seed = 42` further up", True
                seeded = True


def _report(root: Path, stem: Path, cells: list[Cell], tracked: set[str] | None) -> Found:
    """Find whether the report is stale."""
    name = stem.relative_to(root / "notebooks").as_posix()
    report = root / "reports" / name / "README.md"
    if not report.exists():
        return
    text = report.read_text(encoding="utf-8")
    if digest(cells) not in text:
        other = "not as it stands: with other parameters" in text
        why = "made with other parameters" if other else "the notebook changed since"
        yield 1, f"its report is stale: {why}; lab report {name}", False
    verdict = Record(report.parent / "run").verification.get("verdict", "not yet")
    card = [f"reports/{name}/run/{part}" for part in ("config.json", "result.json")]
    if not all((root / part).exists() for part in card):
        yield 1, f"its report is stale: no cell set `record` to its run; lab report {name}", False
    elif tracked is not None and not tracked.issuperset(card) and (root / ".git").exists():
        yield 1, f"its report is stale: its run record is not in git; git add reports/{name}", False
    elif f"**Verified** {verdict}" not in text:
        yield 1, "its report is stale: it was verified since; lab report --readme", False


def _in_step(other: Path, text: str, cells: list[Cell]) -> bool:
    """Tell whether the other half says the same; jupytext is asked only in doubt."""
    try:
        return plainly_in_step(other, cells) or in_step(other.read_bytes(), text)
    except (OSError, LabError):  # missing, or no notebook
        return False
