"""Files that people read and diff: JSON, and the card of a run that git keeps beside its report."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from .project import LabError, write_whole

CARD = ("config.json", "environment.json", "code.json", "code.patch", "data.json",
        "metrics.jsonl", "result.json", "verification.json")  # fmt: skip
UNREADABLE = (OSError, ValueError, RecursionError)  # whatever a file holds
CARD_BYTES = 200_000  # of a patch: beyond this, a card is too much for git


def write_card(record: Any, folder: Path) -> None:
    """Copy what is needed to rerun and verify a record: text only, small enough for git.

    Parameters
    ----------
    record : Record
        A run, or another card of one.
    folder : Path
        For example `reports/01_baseline/run`. If it holds a verdict on this run, too, the newer of
        the two is kept.

    Raises
    ------
    LabError
        If the changes since the base commit are too large for a card.
    """
    patch = record.path / "code.patch"
    refuse_large(patch.stat().st_size if patch.exists() else 0)
    folder.mkdir(parents=True, exist_ok=True)
    there = type(record)(folder)
    if there.id != record.id:
        (folder / "verification.json").unlink(missing_ok=True)
    old, new = (one.verification.get("when", "") for one in (there, record))
    for name in CARD if new > old else CARD[:-1]:  # the last is the verdict
        if (record.path / name).exists():
            write_whole(folder / name, (record.path / name).read_bytes())


def refuse_large(size: int) -> None:
    """LabError if a patch of `size` bytes is too much for a card."""
    if size > CARD_BYTES:
        way = "commit what `git status` lists, or let git ignore it; push, and merge the branch "
        way += "if it is not the default one; then: lab report NAME --again"
        raise LabError(f"the code is a patch of {size // 1000} KB, too much for a report; {way}")


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """Return `values` as JSON can hold them: NumPy's as Python's, None for NaN and infinity."""
    text = json.dumps(values, default=lambda value: value.tolist())
    return json.loads(text, parse_constant=lambda _: None)


def read_json(path: str | Path) -> dict[str, Any]:
    """Read the object that the JSON file at `path` holds; empty where it is missing or damaged."""
    content = {}
    # not by Path: `lab runs` reads thousands
    with suppress(*UNREADABLE), open(path, "rb", buffering=0) as file:  # noqa: PTH123
        content = json.loads(file.read().decode())
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path` for people to read and diff: a line a key, a line a package."""
    lines = []
    for key, value in finite(content).items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            items = ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in value)
            text = f"[\n  {items}\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    write_whole(path, "{\n" + ",\n".join(lines) + "\n}\n")
