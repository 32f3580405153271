"""`lab report` on small notebooks without a training: what goes wrong, and what is tidied."""

import base64
import fcntl
import html
import json
import os
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from conftest import Project, commit_all

pytestmark = pytest.mark.slow

SECTIONS = (
    "1. Purpose", "2. Environment", "3. Data", "4. Model", "5. Training", "6. Results",
    "7. Conclusion and next steps",
)  # fmt: skip
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAAAAABX3VL4AAAADElEQVR4nGNgaABCAAMGAQHk/o6jAAAAAElFTkSuQmCC"
)


def notebook(title="A small one", **cells):
    """Return percent text with seven sections; `s3="code"` puts a cell into section 3."""
    parts = [f"# %% [markdown]\n# # {title}\n", '# %% tags=["parameters"]\nsteps = 3\n']
    parts.append(f"# %%\n{cells['start']}\n" if "start" in cells else "")
    for number, name in enumerate(SECTIONS, 1):
        prose = cells.get(f"p{number}", "Some words.").replace("\n", "\n# ")
        parts.append(f"# %% [markdown]\n# ## {name}\n#\n# {prose}\n")
        if f"s{number}" in cells:
            parts.append(f"# %%\n{cells[f's{number}']}\n")
    return "\n".join(part for part in parts if part)


def put(project, text, name="02_small"):
    """Write a notebook; its other half comes by itself when it is reported."""
    (project.root / f"notebooks/{name}.py").write_text(text, encoding="utf-8")
    return project.root / "reports" / name


@pytest.fixture(scope="module")
def shared(pristine, tmp_path_factory) -> Project:
    """One repository for the notebooks of this file; each test has a notebook of its own."""
    root = tmp_path_factory.mktemp("small") / pristine.root.name
    shutil.copytree(pristine.root, root)
    project = commit_all(Project(root))
    project.git("config", "user.name", "Ada *Lovelace* <x> & Co.")
    return project


def pdf_text(path):
    """Return a PDF's text as a reader of PDFs finds it."""
    done = subprocess.run(["pdftotext", "-layout", path, "-"], capture_output=True, check=True)
    return done.stdout.decode("utf-8")


@pytest.fixture(scope="module")
def tidied(shared):
    """Report a notebook that does all that a report has to tidy."""
    text = notebook(
        "Über 学习率 & <b>“quotes”</b> with $x^2$",
        p1="We expect 5 %. 中文：损失函数 $\\mathcal{L}$.\n\n$$\nE = \\frac{1}{2} m v^2\n$$\n\n"
        "\\begin{equation}\na = b + \\log c\n\\end{equation}\n\n[other](01_baseline.ipynb), "
        "![far](https://example.org/x.png)",
        s2="import sys, warnings, pathlib\n"
        "for _ in range(3):\n    warnings.warn('careful now')\n"
        "for i in range(101):\n    print(f'\\r{i:3}%|###   | {i}/100 [00:01<00:02, 9.9it/s]', "
        "end='', file=sys.stderr)\n"
        "print('\\x1b[31mred\\x1b[0m', object(), pathlib.Path.cwd().parent)",
        s3="print('\\n'.join(map(str, range(80))))",
        s4="class Table:\n    def _repr_html_(self):\n        return '<table><tr><th>name</th></tr>"
        "<tr><td>cell</td></tr></table><script>alert(1)</script>'\nTable()",
        s5="print(f'steps = {steps}')",
        s6="import matplotlib.pyplot as plt\nplt.plot([1, 2, 3]);",
        s7="'the end'",
    )
    folder = put(shared, text, "02_tidied")
    done = shared.lab("report", "02_tidied", "-p", "steps", "7")
    assert done.returncode == 0, done.stderr
    return folder


def test_all_three_come_from_one_execution_and_the_executed_notebook_stays_usable(tidied):
    names = {path.name for path in tidied.iterdir()}
    assert names == {"README.md", "report.html", "report.pdf", "report.ipynb", "figures"}
    convert = [sys.executable, "-m", "nbconvert", "--to", "script", "--stdout", "report.ipynb"]
    done = subprocess.run(convert, cwd=tidied, capture_output=True, check=False)
    assert b"steps = 7" in done.stdout, done.stderr


def test_parameters_are_set_and_shown(tidied):
    text = (tidied / "README.md").read_text(encoding="utf-8")
    assert "steps = 7  # set by lab report" in text
    assert "\n    steps = 7\n" in text  # printed by the cell


def test_progress_bars_colours_addresses_and_paths_of_the_machine_are_gone(tidied, shared):
    for name in ("README.md", "report.html"):
        text = (tidied / name).read_text(encoding="utf-8")
        assert "100%|" not in text
        assert "\x1b" not in text
        assert " at 0x" not in text
        assert str(shared.root) not in text
        assert text.count("UserWarning: careful now") == 1
        assert "ipykernel" not in text


def test_long_outputs_and_code_are_folded(tidied):
    for name in ("README.md", "report.html"):
        text = (tidied / name).read_text(encoding="utf-8")
        assert "<summary>Output, 80 lines</summary>" in text
        assert "<summary>Code</summary>" in text
        assert "<summary>Messages</summary>" in text


def test_formulas_are_set_in_each_format(tidied):
    readme = (tidied / "README.md").read_text(encoding="utf-8")
    assert "$`\\mathcal{L}`$" in readme or "$\\mathcal{L}$" in readme
    page = (tidied / "report.html").read_text(encoding="utf-8")
    assert page.count("<math") == 4  # the title's, one in a line, two displayed
    assert "\\frac" not in re.sub(r"<annotation.*?</annotation>", "", page, flags=re.DOTALL)
    assert "\\" not in pdf_text(tidied / "report.pdf").split("2. Environment")[0]


def test_chinese_is_whole_in_each_format_and_pages_are_numbered(tidied):
    text = pdf_text(tidied / "report.pdf")
    assert "学习率" in text
    assert "中文：损失函数" in text
    assert re.search(r"1 ?/ ?\d\n", text)
    assert "Figure 1" in text
    for name in ("README.md", "report.html"):
        assert "中文：损失函数" in (tidied / name).read_text(encoding="utf-8")


def test_the_pdf_has_no_code_unless_asked(tidied, shared):
    assert "matplotlib.pyplot" not in pdf_text(tidied / "report.pdf")
    shared.lab("report", "02_tidied", "-p", "steps", "7", "--with-code", check=True)
    assert "matplotlib.pyplot" in pdf_text(tidied / "report.pdf")


def test_a_table_stays_a_table_and_scripts_do_not_pass(tidied):
    page = (tidied / "report.html").read_text(encoding="utf-8")
    assert "<td>cell</td>" in page
    assert "<script" not in page
    assert "cell" in pdf_text(tidied / "report.pdf")


def test_links_lead_to_where_the_notebook_meant_and_far_pictures_become_links(tidied):
    readme = (tidied / "README.md").read_text(encoding="utf-8")
    assert "(../../notebooks/01_baseline.ipynb)" in readme
    page = (tidied / "report.html").read_text(encoding="utf-8")
    assert '<a href="https://example.org/x.png"' in page
    assert 'src="https://' not in page


def test_the_author_is_written_as_it_is(tidied):
    page = (tidied / "report.html").read_text(encoding="utf-8")
    assert "Ada *Lovelace* &lt;x&gt; &amp; Co." in page


def test_a_figure_of_plain_matplotlib_is_a_file_with_a_number(tidied):
    assert (tidied / "figures/6-1.png").stat().st_size > 1000
    assert "(figures/6-1.png)" in (tidied / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rich(shared):
    """Report a notebook in a subfolder with pictures in its prose and outputs in several forms."""
    stem = shared.root / "notebooks/deep/10_rich"
    (stem.parent / "a plot.png").parent.mkdir()
    (stem.parent / "a plot.png").write_bytes(PNG)
    show = (
        "def _repr_{}_(self):\n        return {!r}\n    def __repr__(self):\n        return 'plain'"
    )
    text = notebook(
        p1="5 % of ![beside](a%20plot.png), ![gone](no.png)\n\n<img src='a plot.png' width='40'>\n\n"
        "| first | second |\n|---|---|\n| abc | x |\n| a long cell | y |\n\n[next](11.ipynb)",
        p2="![pasted](attachment:pasted.png)",
        p3="\\begin{align}\nalpha &= omega\n\\end{align}\n\n"
        '<div class="alert alert-info">\n\n**An alert** of prose.\n\n</div>\n\n'
        "<details><summary>More</summary>\n\nHidden *prose*.\n\n</details>\n\n"
        "See [7](#7.-Conclusion-and-next-steps), [nowhere](#nowhere) and a note[^1].\n\n"
        "[^1]: By *Smith*.",
        s3="class Frame:\n    "
        + show.format(
            "html", "<style scoped>\n.x {}\n</style><table><tr><td>cell</td></tr></table>"
        )
        + "\nFrame()",
        s4="class Term:\n    " + show.format("latex", "$\\displaystyle \\frac{a}{b}$") + "\nTerm()",
        s5="import sys\nprint('/x/y.py:1: TqdmWarning: IProgress not found\\n  import it',"
        "'/x/y.py:2: UserWarning: seen\\n  f(x)', sep='\\n', file=sys.stderr)",
        s6='from IPython.display import Markdown\nMarkdown("It\'s *so*.")',
    )
    stem.with_suffix(".py").write_text(text, encoding="utf-8")
    shared.lab("sync", check=True)
    half = json.loads(stem.with_suffix(".ipynb").read_text(encoding="utf-8"))
    (cell,) = [c for c in half["cells"] if "attachment:" in "".join(c["source"])]
    cell["attachments"] = {"pasted.png": {"image/png": base64.b64encode(PNG).decode()}}
    stem.with_suffix(".ipynb").write_text(json.dumps(half), encoding="utf-8")
    done = shared.lab("report", "10_rich")
    assert done.returncode == 0, done.stderr
    return shared.root / "reports/deep/10_rich"


def test_pictures_beside_the_notebook_or_pasted_into_it_go_with_the_report(rich):
    readme = (rich / "README.md").read_text(encoding="utf-8")
    (kept,) = (rich / "figures").iterdir()
    assert kept.read_bytes() == PNG
    assert readme.count(f"(figures/{kept.name})") == 2
    assert re.search(rf'<img src="figures/{kept.name}" [^>]*width="40"', readme)
    assert "[next](../../../notebooks/deep/11.ipynb)" in readme
    page = (rich / "report.html").read_text(encoding="utf-8")
    assert page.count("src=") == page.count('src="data:image/png;base64,') == 3
    pdf = subprocess.run(
        ["pdfimages", "-list", rich / "report.pdf"], capture_output=True, check=True
    )
    assert pdf.stdout.count(b" image ") >= 3


def test_what_a_cell_shows_is_shown_once_in_its_richest_form(rich):
    for name in ("README.md", "report.html"):
        text = html.unescape((rich / name).read_text(encoding="utf-8"))
        assert text.count("plain") == text.count('"plain"')  # in the code alone
        assert "It's <em>so</em>" in text or "It's *so*" in text  # as typed, as in prose
        assert "UserWarning: seen" in text
        assert "f(x)" not in text.replace("\\n  f(x)", "")
        assert "IProgress" not in re.sub(
            r"<pre>.*?</pre>|``` python.*?```", "", text, flags=re.DOTALL
        )
    assert "<mfrac>" in (rich / "report.html").read_text(encoding="utf-8")
    assert "plain" not in pdf_text(rich / "report.pdf")


def test_what_jupyter_shows_of_prose_is_in_each_format(rich):
    readme = (rich / "README.md").read_text(encoding="utf-8")
    assert "alpha &= omega" in readme
    assert "\n**An alert** of prose.\n" in readme
    assert "[7](#7-conclusion-and-next-steps)" in readme
    assert "[^1]: By *Smith*." in readme
    assert "<style scoped>\n" not in readme  # as in the code, there with a backslash
    page = (rich / "report.html").read_text(encoding="utf-8")
    assert "<strong>An alert</strong>" in page
    assert 'href="#7-conclusion-and-next-steps"' in page
    text = " ".join(pdf_text(rich / "report.pdf").split())
    for words in ("An alert of prose.", "Hidden prose.", "See 7, nowhere and a note", "By Smith."):
        assert words in text
    assert "alpha" not in text  # a formula: α would be \\alpha, and these are letters
    assert "𝑎𝑙𝑝ℎ𝑎" in text.replace(" ", "")


def test_tables_of_the_pdf_are_read_from_the_left(rich):
    lines = pdf_text(rich / "report.pdf").splitlines()
    starts = {
        line.index(word)
        for word in ("first", "abc", "a long cell")
        for line in lines
        if word in line
    }
    assert len(starts) == 1


def test_where_only_prose_changed_nothing_is_executed(shared):
    text = notebook(
        s5="from pathlib import Path\nwith Path('../count').open('a') as f:\n    f.write('x')"
    )
    folder = put(shared, text, "03_prose")
    count = shared.root / "count"
    shared.lab("report", "03_prose", "--to", "md", check=True)
    put(shared, text.replace("Some words.", "Other words."), "03_prose")
    shared.lab("report", "03_prose", "--to", "md", check=True)
    assert count.read_text() == "x"
    assert "Other words." in (folder / "README.md").read_text(encoding="utf-8")
    put(shared, text.replace("'x'", "'y'"), "03_prose")
    shared.lab("report", "03_prose", "--to", "md", check=True)
    assert count.read_text() == "xy"
    train = shared.root / "train.py"
    train.write_text(train.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    shared.lab("report", "03_prose", "--to", "md", check=True)
    assert count.read_text() == "xyy"
    deeper = shared.root / "src" / shared.package / "models_of_mine/wide.py"
    deeper.parent.mkdir()
    deeper.write_text("width = 8\n", encoding="utf-8")
    shared.lab("report", "03_prose", "--to", "md", check=True)
    assert count.read_text() == "xyyy"
    shared.lab("report", "03_prose", "--to", "md", "--again", check=True)
    assert count.read_text() == "xyyyy"


def test_a_report_is_of_the_notebook_as_the_hook_leaves_it(shared):
    put(shared, notebook(s4="x   =  [1,2]\nx"), "11_layout")
    shared.lab("report", "11_layout", "--to", "md", check=True)
    script = shared.root / "notebooks" / "11_layout.py"
    assert "x = [1, 2]" in script.read_text()
    script.write_text(script.read_text().replace("\n# %% [markdown]", "\n\n# %% [markdown]"))
    said = shared.lab("check", "11_layout").stdout
    assert "11_layout.py:1: its report is stale: the notebook changed" not in said


def test_a_helper_beside_the_notebook_is_code_that_can_change(shared):
    helper = shared.root / "notebooks" / "helper_of_twelve.py"
    helper.write_text("FACTOR = 'one'\n")
    folder = put(
        shared, notebook(s5="import helper_of_twelve\nhelper_of_twelve.FACTOR"), "12_helper"
    )
    shared.lab("report", "12_helper", "--to", "md", check=True)
    helper.write_text("FACTOR = 'two'\n")
    shared.lab("report", "12_helper", "--to", "md", check=True)
    assert "'two'" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_dot_in_a_notebooks_name_is_part_of_it(shared):
    put(shared, notebook("Of zero", s5="0"), "13_lr_0")
    folder = put(shared, notebook("Of a tenth", s5="0.1"), "13_lr_0.1")
    shared.lab("report", "13_lr_0.1", "--to", "md", check=True)
    assert "# Of a tenth" in (folder / "README.md").read_text(encoding="utf-8")


def test_an_error_is_shown_with_its_cell_and_the_last_good_report_stays(shared):
    good = notebook(s3="print('good')", s5="1 + 1")
    folder = put(shared, good, "04_failing")
    shared.lab("report", "04_failing", check=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    put(shared, good.replace("1 + 1", "value = 1\nvalue / 0"), "04_failing")
    done = shared.lab("report", "04_failing")
    assert done.returncode == 1
    assert "section '5. Training'" in done.stderr
    assert "value / 0" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "failed.html" in done.stderr
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"failed.html", "failed.ipynb"}
    page = (folder / "failed.html").read_text(encoding="utf-8")
    assert "good" in page
    assert "ZeroDivisionError" in page
    assert not shared.git("status", "--porcelain", "--", str(folder / "failed.html")).stdout
    put(shared, good, "04_failing")
    shared.lab("report", "04_failing", check=True)
    assert not (folder / "failed.html").exists()


def test_an_error_that_run_swallows_fails_the_report_all_the_same(shared):
    boom = "import sys\nprint('its own words', file=sys.stderr)\nraise OSError('no disk')\n"
    (shared.root / "boom.py").write_text(boom, encoding="utf-8")
    put(shared, notebook(s5="# %run ../boom.py", s6="print('went on')"), "09_swallowed")
    done = shared.lab("report", "09_swallowed", "--to", "md")
    assert done.returncode == 1
    assert "no disk" in done.stderr
    assert "its own words" in done.stderr
    assert not (shared.root / "reports/09_swallowed/README.md").exists()


def test_an_interrupt_leaves_the_last_good_report_and_no_kernel(shared):
    good = notebook(s3="1")
    folder = put(shared, good, "05_stopped")
    shared.lab("report", "05_stopped", "--to", "md,html", check=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    slow = "import os, time\nfrom pathlib import Path\nPath('../pid').write_text(str(os.getpid()))"
    slow += "\ntime.sleep(60)"
    put(shared, notebook(s3=slow), "05_stopped")
    command = [sys.executable, "-m", f"{shared.package}.lab.cli", "report", "05_stopped"]
    process = subprocess.Popen(command, cwd=shared.root, env=shared.env, stderr=subprocess.PIPE)
    pid = shared.root / "pid"
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.decode().strip().endswith("lab: interrupted")
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after == before
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid.read_text()}"):  # noqa: PTH110
            break
        time.sleep(0.1)
    else:
        pytest.fail("the kernel is still there")


def test_a_missing_font_is_named(shared):
    put(shared, notebook(p1="Hieroglyph 𓀀, 1 of them."), "06_font")
    done = shared.lab("report", "06_font")
    assert done.returncode == 1
    assert "𓀀" in done.stderr
    assert "egyptian hieroglyph" in done.stderr
    assert (shared.root / "reports/06_font/report.pdf").exists()
    assert "𓀀" in (shared.root / "reports/06_font/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["99_none"], "99_none"),
        (["01_baseline", "--to", "docx"], "docx"),
        (["01_baseline", "-p", "epoch", "1"], "epoch"),
        (["01_baseline", "--run", "20200101"], "20200101"),
        ([], "which notebook"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_one_line(shared, arguments, says):
    done = shared.lab("report", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("lab: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (shared.root / "reports/01_baseline").exists()


def test_a_bar_over_the_cells_is_drawn_on_a_terminal(shared):
    put(shared, notebook(s3="1", s5="2"), "07_bar")
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", f"{shared.package}.lab.cli", "report", "07_bar", "--to", "md"]
    done = subprocess.run(command, cwd=shared.root, env=shared.env, stderr=theirs, check=False)
    os.set_blocking(mine, False)
    shown = os.read(mine, 65536).decode("utf-8", "replace")
    os.close(theirs)
    os.close(mine)
    assert done.returncode == 0
    assert "07_bar" in shown
    assert "cell" in shown


def test_rendering_costs_less_than_two_seconds(shared):
    put(shared, notebook(s6="import matplotlib.pyplot as plt\nplt.plot([1, 2]);"), "08_quick")
    shared.lab("report", "08_quick", check=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shared.lab("report", "08_quick", check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_the_mark_of_a_report_made_with_other_parameters_is_stale(tidied, shared):
    done = shared.lab("check", "02_tidied")
    assert "its report is stale: made with other parameters" in done.stdout


def test_an_executed_notebook_is_plain_json_of_nbformat_4(tidied):
    content = json.loads((tidied / "report.ipynb").read_text(encoding="utf-8"))
    assert content["nbformat"] == 4


def test_a_magic_in_the_parameters_cell_is_no_obstacle(pristine):
    code = (
        f"from {pristine.package}.lab import execution\n"
        "cell = dict(cell_type='code', metadata=dict(tags=['parameters']), outputs=[])\n"
        "notebook = dict(metadata={}, cells=[cell | dict(source='%matplotlib inline\\nepochs = 3')])\n"
        "execution.set_parameters(notebook, dict(epochs='1'))\n"
        "print(notebook['cells'][1]['source'])"
    )
    assert "epochs = 1" in pristine.python("-c", code, check=True).stdout


def test_outputs_in_whatever_form_are_there_and_noise_is_not(shared):
    show = "from IPython.display import display\ndisplay({!r}, raw=True)"
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="2" height="2"/>'
    widget = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "HBox()"}
    jpeg = show.format({"image/jpeg": base64.b64encode(PNG).decode()})
    text = notebook(
        s2="import sys\nprint('100%|####| 9/9 [00:01<00:00]', file=sys.stderr)",
        s3=show.format({"image/svg+xml": svg}),
        s4=show.format(widget),
        s5="print('one  \\r\\ntwo')",
        s6=f"1\n\n# %% [markdown]\n# More words.\n\n# %%\n{jpeg}",
    )
    folder = put(shared, text, "14_forms")
    shared.lab("report", "14_forms", "--to", "md", check=True)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in (folder / "figures").iterdir()} == {"3-1.svg", "6-1.jpg"}
    assert re.search(r"one\n +two\n", readme)
    assert "    HBox()" not in readme
    assert "Messages" not in readme
