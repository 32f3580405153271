"""The README's table of results, filled from the record cards in `reports/`."""

import re
from collections.abc import Iterator
from pathlib import Path

from .pairs import read_half
from .project import LabError, write_whole
from .records import Record

TITLES = ("experiment", "data", "model", "epochs", "seed", "result", "verified", "run")
MARKS = ("<!-- results -->", "<!-- /results -->")


def _table(root: Path) -> str:
    """Write the README's results, a line for each report."""
    lines = [f"| {' | '.join(TITLES)} |", "|---" * len(TITLES) + "|"]
    for card in sorted((root / "reports").glob("**/run/result.json")):
        record, folder = Record(card.parent), card.parent.parent
        title = re.search(r"(?m)^# (.+)", read_half(folder / "README.md") or "")
        place = folder.relative_to(root).as_posix().replace(" ", "%20")
        cells = [
            f"[{title[1] if title else folder.name}]({place}/)",
            *(str(record.config.get(key)) for key in ("dataset", "model", "epochs", "seed")),
            " ".join(record.headline or "–").removeprefix("test "),
            record.verification.get("verdict", "not yet"),
            f"`{record.id}`",
        ]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines if len(lines) > 2 else ["No experiment is reported yet."])


def _split_readme(root: Path) -> tuple[str, str, str] | None:
    """Return the README before, between and after the markers."""
    text = read_half(root / "README.md") or ""
    parts = re.fullmatch(rf"(?s)(.*?{MARKS[0]})(.*?)({MARKS[1]}.*)", text)
    return parts and (parts[1], parts[2].strip(), parts[3])


def readme_findings(root: Path) -> Iterator[tuple[int, str]]:
    """Yield line and finding where the README of `root` or a report differs from the project."""
    for card in sorted((root / "reports").glob("**/run/config.json")):
        name = card.parents[1].relative_to(root / "reports").as_posix()
        if not (root / "notebooks" / f"{name}.py").exists():
            yield 1, f"reports/{name} has no notebook any more; git rm -r reports/{name}"
    parts = _split_readme(root)
    if parts and parts[1] != _table(root):
        yield parts[0].count("\n") + 1, "the results table is out of step; lab report --readme"


def _show_verdicts(root: Path) -> None:
    """Write into each report what `lab verify` said last of the record beside it."""
    for card in sorted((root / "reports").glob("**/run/result.json")):
        record, page = Record(card.parent), card.parents[1] / "README.md"
        if record.state == "damaged":  # by a merge, perhaps
            raise LabError(f"{card} cannot be read; lab report {page.parent.name} writes it again")
        verdict = record.verification.get("verdict", "not yet").replace("\\", r"\\")
        text = read_half(page) or ""
        shown = re.sub(r"(?m)(\*\*Verified\*\*) [^·\n]*?(?= ·|$)", rf"\1 {verdict}", text, count=1)
        if shown != text:
            write_whole(page, shown)
            print(f"{page.relative_to(root).as_posix()}: verdict shown")


def readme_table(root: Path) -> int:
    """Fill the table in the README of `root` from the record cards; LabError without its marks.

    It also writes the last verdict on each record into its report.
    """
    _show_verdicts(root)
    parts = _split_readme(root)
    if not parts:
        raise LabError(f"README.md lacks the lines {MARKS[0]} and {MARKS[1]}; put them back")
    write_whole(root / "README.md", f"{parts[0]}\n{_table(root)}\n{parts[2]}")
    print("README.md: results table written")
    return 0
