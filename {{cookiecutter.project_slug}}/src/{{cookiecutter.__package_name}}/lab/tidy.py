"""Make an executed notebook fit to print: figures become files, noise leaves the outputs."""

import base64
import json
import re
from pathlib import Path

from .execution import ANSI
from .project import tilde, write_whole

BAR = re.compile(r"\d+%\|.*\||\d+it \[\d\d:\d\d|^\s*0it \[|^TqdmWarning: ")
WARNING = re.compile(r"(?m)^\S*[\\/]\S+?:\d+: (\w*Warning: .*)(?:\n  .*)?")  # with its line of code
SHOWN = ("text/markdown", "text/html", "text/latex", "text/plain")  # only the first that is there
# code; or a formula with spaces within its dollars, which Jupyter sets and pandoc does not
SPACED = re.compile(r"(?s)(`+).*?\1|(?<![\\$])\$ +([^$`\n]*[\\^_=][^$`\n]*?) *\$(?![\d$])")


def tidy(root: Path, notebook: dict, folder: Path) -> dict:
    """Return a copy of an executed `notebook` for pandoc, without what differs between machines.

    Pictures are written to `figures` in `folder`, as `<section>-<number>`; paths in outputs
    leave out `root`, the project's folder.
    """
    notebook, section = json.loads(json.dumps(notebook)), "0"
    counts: dict[str, int] = {}
    for cell in notebook["cells"]:
        heading = re.search(r"(?m)^## (\d)", "".join(cell["source"]))
        if cell["cell_type"] != "code":
            cell["source"] = "".join(cell["source"])
            cell["source"] = SPACED.sub(lambda m: f"${m[2]}$" if m[2] else m[0], cell["source"])
            section = heading[1] if heading else section
            continue
        cell["execution_count"], streams, others = None, {}, []
        for part in cell["outputs"]:
            if part["output_type"] == "stream":
                text = streams.setdefault(part["name"], {**part, "text": ""})
                text["text"] += "".join(part["text"])
                if text not in others:
                    others.append(text)
            elif part["output_type"] == "error":
                trace = ANSI.sub("", "\n".join(part["traceback"]))
                others.append({"output_type": "stream", "name": "stdout", "text": trace})
            elif not any("widget-view" in kind for kind in part["data"]):
                data = _figure(part, folder, section, counts) or part["data"]
                shown = [(k.replace("latex", "markdown"), data[k]) for k in SHOWN if k in data][:1]
                others.append({"output_type": "display_data", "data": dict(shown), "metadata": {}})
        for part in others:
            texts = part.get("data", part)
            for kind in {"text", "text/plain"} & texts.keys():
                texts[kind] = _clean("".join(texts[kind]), root, part.get("name") == "stderr")
        cell["outputs"] = [part for part in others if part.get("text", "-")]
    return notebook


def _figure(part: dict, folder: Path, section: str, counts: dict[str, int]) -> dict | None:
    """Write a picture as `figures/<section>-<number>` and return Markdown that shows it."""
    for kind, suffix in (("image/svg+xml", "svg"), ("image/png", "png"), ("image/jpeg", "jpg")):
        if kind in part["data"]:
            counts[section] = counts.get(section, 0) + 1
            path = f"figures/{section}-{counts[section]}.{suffix}"
            picture = "".join(part["data"][kind])
            write_whole(folder / path, picture if suffix == "svg" else base64.b64decode(picture))
            words = part.get("metadata", {}).get(kind, {})
            alt = words.get("alt") or f"Figure {counts[section]} of section {section}"
            texts = (alt, words.get("caption") or "")
            alt, caption = (re.sub(r'(["\\\[\]$*_`<])', r"\\\1", text) for text in texts)
            return {"text/markdown": f'![{alt}]({path} "{caption}")'}
    return None


def _clean(text: str, root: Path, messages: bool) -> str:
    """Remove what differs from machine to machine or is drawn over: bars, colours, paths."""
    here = rf"(?<![\w.~-]){re.escape(str(root))}(?![\w-]|\.\w)"  # may end a sentence
    text = tilde(re.sub(here, ".", ANSI.sub("", text)))
    # process numbers; torchinfo's slip
    text = re.sub(r" at 0x[0-9a-f]+|(?<=ipykernel)_\d+", "", text).replace("Units.MEGABYTES", "M")
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    if messages:
        lines = WARNING.sub(r"\1", "\n".join(lines)).split("\n")
        # the same warning once
        lines = dict.fromkeys(line for line in lines if line.strip() and not BAR.search(line))
    return "\n".join(lines).strip("\n")
