"""Execute a notebook in a fresh kernel and publish it: README.md, report.html and report.pdf."""

import json
import re
import shutil
import sys
import tempfile
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

from . import execution, nbfilter, pairs, records
from .cards import refuse_large
from .checks import findings
from .notebooks import digest, plainly_in_step, read_cells
from .project import LabError, call, git, write_whole
from .results import readme_findings, readme_table
from .tidy import tidy

FORMATS = {"md": "README.md", "html": "report.html", "pdf": "report.pdf"}
ACCENTS = {"\u0303": "\u02dc", "\u0302": "\u02c6", "\u0304": "\u00af", "\u0307": "\u02d9"}
READ = "ipynb+raw_tex+markdown_in_html_blocks+footnotes+startnum+tex_math_double_backslash"
ASSETS = Path(__file__).parent
RUNS_TRAIN = r"(?m)^[^#`\n]*(?:[%!]|\bpython3? ).*train\.py"  # %run, !python, a cell of %%bash


def report(
    root: Path,
    name: str | None,
    run: str | None,
    formats: list[str],
    parameters: list[tuple[str, str]],
    with_code: bool,
    again: bool,
    readme: bool,
) -> int:
    """Publish a notebook under `reports/`; where only its prose changed, nothing is executed.

    Parameters
    ----------
    root : Path
        The project's root.
    name : str or None
        The notebook; with `readme` there may be none.
    run : str or None
        A run to report instead of training.
    formats : list of str
        Of `md`, `html` and `pdf`; `md` is always written.
    parameters : list of (str, str)
        Names and values for the notebook's parameters cell.
    with_code : bool
        Show the code in the PDF, too.
    again : bool
        Execute even if no code changed.
    readme : bool
        Fill the README's table of results.

    Returns
    -------
    int
        0; 1 if a cell failed or the PDF lacks letters.

    Raises
    ------
    LabError
        If there is no such notebook, run, format or parameter.
    """
    if unknown := set(formats) - set(FORMATS):
        raise LabError(f"no format {min(unknown)!r}; choose from {', '.join(FORMATS)}")
    code = 0
    if name:
        stem = pairs.find_notebook(root, name)
        values = dict(parameters) | ({"run": repr(_name_of_run(root, run))} if run else {})
        notebook = _executed(root, stem, values, again)
        code = _publish(root, stem, notebook, formats, with_code) if notebook else 1
    elif not readme:
        raise LabError("which notebook? for example: lab report 01_baseline")
    if code or readme:
        return code or readme_table(root)
    if next(readme_findings(root), None):
        print("the README's results table is out of step: lab report --readme")
    return 0


def _executed(root: Path, stem: Path, parameters: dict[str, str], again: bool) -> dict | None:
    """Execute a notebook, or take the outputs of last time; None where that failed."""
    script, ipynb = (pairs.half(stem, suffix) for suffix in (".py", ".ipynb"))
    # as the hook would after it, which would make the report stale
    call([sys.executable, "-m", "ruff", "format", "--quiet", script], cwd=root)
    cells = read_cells(pairs.read_half(script) or "")
    if not plainly_in_step(ipynb, cells) and pairs.sync(root, [str(stem)]):
        return None
    notebook = nbfilter.parse(ipynb.read_bytes())
    if notebook is None:
        raise LabError(f"{ipynb} is no notebook of nbformat 4; restore it with git, or save it")
    execution.set_parameters(notebook, parameters)
    said = f"sha256 {digest(read_cells(pairs.read_half(script) or ''))}"  # it may be edited soon
    if parameters.keys() - {"run"}:
        said = "not as it stands: with other parameters"
    notebook["metadata"]["lab"] = {"said": said}
    target = _target(root, stem)
    code = execution.code_digest(root, notebook)
    made = target / "report.ipynb"
    last = nbfilter.parse(made.read_bytes()) if made.exists() else None
    if records.Record(target / "run").code.get("warning"):  # made without a commit, or edited
        head = git(root, "rev-parse", "-q", "--verify", "HEAD", check=False)
        again = again or not head.returncode
    if not again and last and last["metadata"].get("lab", {}).get("code") == code:
        print("no code changed since the last report: its outputs are reused (--again executes)")
        execution.take_outputs(notebook, last)
        return notebook
    if re.search(RUNS_TRAIN, "\n".join(map(nbfilter.source, notebook["cells"]))):
        refuse_large(len(records.capture(root, [])[1]))  # now, not when hours are spent
    try:
        execution.execute(root, stem, notebook, code)
    except execution.CellError as failure:
        target.mkdir(parents=True, exist_ok=True)
        message, notebook = failure.args
        write_whole(target / "failed.ipynb", nbfilter.dumps(notebook))
        with tempfile.TemporaryDirectory(prefix=".lab-", dir=target) as folder:
            _render(root, stem, notebook, Path(folder), {"html"})
            (Path(folder) / "report.html").replace(target / "failed.html")
        print(f"{message}\nthe report up to there: {target / 'failed.html'}", file=sys.stderr)
        return None
    return notebook


def _target(root: Path, stem: Path) -> Path:
    """Return the folder of a notebook's report."""
    return root / "reports" / stem.relative_to(root / "notebooks")


def _name_of_run(root: Path, run: str) -> str:
    """Return what names a finished run in the notebook, wherever the project lies."""
    record = records.find(root, run)
    if record.state != "finished":
        way = f"a report needs a finished run (python train.py --resume {record.id})"
        raise LabError(f"{record.id} is {record.state}; {way}")
    if not (record.path / "predictions.npz").exists():  # a card: the run has what figures show
        record = records.Record(root / "runs" / record.id)
        if not (record.path / "predictions.npz").exists():
            why = f"the data for the figures of {record.id} are only where it was made"
            raise LabError(f"{why}; report it there, or train anew, without --run")
    path = root / "runs" / record.path.name  # which may be a link to another disk
    path = path if path.resolve() == record.path.resolve() else record.path.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _render(root, stem, notebook, folder, formats, with_code=False):
    """Write the report's files into a folder; return what `_typeset` does."""
    name = stem.relative_to(root / "notebooks").as_posix()
    run = notebook["metadata"].get("lab", {}).get("run")
    last = _target(root, stem) / "run"
    record = records.Record(Path(run) if run and Path(run).exists() else last)
    if run and record.config:
        if last.exists():  # with its verdict
            shutil.copytree(last, folder / "card")
        records.write_card(record, folder / "card")
        record = records.Record(folder / "card")
    (folder / "figures").mkdir()
    facts = _facts(root, stem, record if run else None)
    meta = {"name": name, "date": facts[1]["value"], "facts": facts}
    meta |= {"run": bool(run), "with_code": with_code}
    meta["base"] = "../" * (2 + name.count("/")) + f"{stem.parent.relative_to(root).as_posix()}/"
    write_whole(folder / "meta.json", json.dumps(meta))
    write_whole(folder / "tidy.json", json.dumps(tidy(root, notebook, folder)))
    if "md" in formats:
        _pandoc(folder, "gfm", "README.md", "--template", ASSETS / "report.md")
        text = (folder / "README.md").read_text(encoding="utf-8").rstrip()
        source = f"notebooks/{name}.py, {notebook['metadata']['lab']['said']}"
        write_whole(folder / "README.md", f"{text}\n\n<!-- from {source} -->\n")
    if "html" in formats:
        style = (ASSETS / "report.css").read_text(encoding="utf-8")
        options = ("--mathml", "--embed-resources", "--toc", "--toc-depth=2", f"-Vstyles={style}")
        _pandoc(folder, "html", "report.html", "--template", ASSETS / "report.html", *options)
        # combining characters, which pandoc writes as accents, stand beside their letter
        text = (folder / "report.html").read_text(encoding="utf-8")
        text = re.sub('(?<=accent="true">).(?=<)', lambda m: ACCENTS.get(m[0], m[0]), text)
        write_whole(folder / "report.html", text)
    if "pdf" not in formats:
        return None
    _pandoc(folder, "typst", "report.typ", "--template", ASSETS / "report.typ")
    return _typeset(folder)


def _publish(root, stem, notebook, formats, with_code) -> int:
    """Write the report beside the last one, then put it in its place."""
    target = _target(root, stem)
    target.mkdir(parents=True, exist_ok=True)
    # what took long, kept if the rest fails
    write_whole(target / "report.ipynb", nbfilter.dumps(notebook))
    with tempfile.TemporaryDirectory(prefix=".lab-", dir=target) as folder:
        scratch = Path(folder)
        lacking = _render(root, stem, notebook, scratch, {"md", *formats}, with_code)
        last, new = records.Record(target / "run"), records.Record(scratch / "card")
        if last.config and last.id != new.id:
            verdict = last.verification.get("verdict", "not verified")
            print(f"replaces the report of {last.id} ({verdict}); if committed, git has it")
        for old in (*reversed(FORMATS.values()), "failed.html", "failed.ipynb"):  # it may be open
            (target / old).unlink(missing_ok=True)
        for part in ("figures", "run", *FORMATS.values()):
            # a card is called `run` in a report alone: what a killed one leaves counts for nothing
            made = scratch / part.replace("run", "card")
            shutil.rmtree(target / part, ignore_errors=True)
            if made.exists():
                made.replace(target / part)
    written = [target / name for name in FORMATS.values() if (target / name).exists()]
    print("\n".join(f"wrote {path.relative_to(root).as_posix()}" for path in written))
    if lacking:
        print(f"lab: {lacking[1]}", file=sys.stderr)
    for line, text, _ in findings(root, stem):
        print(f"{pairs.half(stem, '.py').relative_to(root).as_posix()}:{line}: {text}")
    if warning := records.Record(target / "run").code.get("warning"):
        print(f"lab: {warning}", file=sys.stderr)
    return int(bool(lacking) and unicodedata.category(lacking[0]).startswith("L"))


def _facts(root: Path, stem: Path, record: records.Record | None) -> list[dict[str, str]]:
    """Say who, when, which run, which code, and whether it was run again; values are Markdown."""
    path = pairs.half(stem, ".py").relative_to(root).as_posix()
    names = git(root, "log", "--reverse", "--format=%an", "--", path, check=False).stdout
    asked = git(root, "config", "user.name", check=False).stdout
    author = next((name for name in (names + "\n" + asked).splitlines() if name.strip()), "unknown")
    facts = [{"name": "Author", "value": re.sub(r"([^\w\s])", r"\\\1", author)}]
    now = datetime.now(UTC).date().isoformat()
    if not record:
        return [*facts, {"name": "Date", "value": now}]
    day = re.match(r"(\d{4})(\d\d)(\d\d)-", record.id)
    changed = ", with changes kept as a patch" if record.code.get("dirty") else ""
    commit = (record.code.get("commit") or "none")[:10]
    verdict = record.verification.get("verdict", "not yet")
    look = {"identical": "good", "within tolerance": "good", "different": "bad"}.get(verdict, "")
    facts += [
        {"name": "Date", "value": "-".join(day.groups()) if day else now},
        {"name": "Run", "value": f"`{record.id}`", "class": "run"},
        {"name": "Commit", "value": f"`{commit}`{changed}"},
        {"name": "Verified", "value": verdict, "class": look},
    ]
    if found := record.headline:
        facts.append({"name": found[0].capitalize(), "value": found[1]})
    return facts


def _pandoc(folder: Path, kind: str, output: str, *options) -> None:
    """Convert the tidy notebook."""
    try:
        import pypandoc  # pip's way to have it; a system's own is often years old

        program = pypandoc.get_pandoc_path()
    except (ImportError, OSError):
        program = shutil.which("pandoc")
    if not program:
        raise LabError("pandoc is not installed; pip install -e '.[dev]' brings it")
    files = ("tidy.json", "--metadata-file=meta.json", "--resource-path=.", "--output", output)
    form = ("--from", READ, "--to", kind, "--standalone", "--wrap=preserve")
    command = [program, *files, *form, "--lua-filter", ASSETS / "report.lua", *options]
    done = call(command, cwd=folder)
    if done.returncode:
        # less the backtrace that Haskell adds
        raise LabError(f"pandoc cannot write {output}: {done.stderr.split('HasCall')[0].strip()}")


def _typeset(folder: Path) -> tuple[str, str] | None:
    """Make the PDF; return what it lacks, a letter (any, where there is no PDF), and the remedy."""
    import typst

    text, output = (folder / "report.typ").read_text(encoding="utf-8"), folder / "report.pdf"
    told = ""
    # of what no font here has, a letter weighs more than an emoji before it
    for said in (text, "".join(c for c in text if unicodedata.category(c) != "So")):
        try:  # this standard refuses lost letters
            typst.compile(said.encode(), output, root=folder, pdf_standards=["a-2b"])
            break
        except typst.TypstError as error:
            told = error.message
    if not told:
        return None
    lost = re.search(r'the text `"(.+?)"` could not be displayed', told)
    if not lost:
        return "x", f"there is no PDF, because typst failed: {told}"
    typst.compile(text.encode(), output, root=folder)
    name = unicodedata.name(lost[1][0], "unknown").lower()
    return lost[1][0], (
        f"no font here has {lost[1]!r} ({name}), so report.pdf lacks it; install one that has it, "
        "such as Noto Serif CJK SC for Chinese (Debian: fonts-noto-cjk)"
    )
