"""What people put into notebooks: nothing of it vanishes from a report without a word."""

import base64
import html
import json
import os
import re
import shutil

import pytest
from conftest import Project, commit_all
from test_report_small import PNG, notebook, pdf_text, put

pytestmark = pytest.mark.slow

FORMULAS = (
    r"$ \alpha = 1 $, $A \cap B$, $h \odot g$, $a \otimes b$, $\bigotimes_i c_i$, \textbf{raw}"
)
NUMBERED = r"$$y = x \tag{7} \label{eq}$$"


@pytest.fixture(scope="module")
def shared(pristine, tmp_path_factory) -> Project:
    """One repository for the notebooks of this file; each test has a notebook of its own."""
    root = tmp_path_factory.mktemp("contents") / pristine.root.name
    shutil.copytree(pristine.root, root)
    return commit_all(Project(root))


@pytest.fixture(scope="module")
def reported(shared):
    """Report a notebook with much of what people write, and what their libraries show."""
    text = notebook(
        p1=f"It costs $ 5, `$ x_1 $`.\n\n{FORMULAS}\n\n{NUMBERED}\n\n"
        "1. one\n\nbetween\n\n2. two\n\n# A stray title",
        s2="from IPython.display import HTML, Markdown\n"
        "Markdown('Results:\\n- first\\n- second\\n\\nRecall @10, [@x]\\n\\n## 3. Data')",
        s3="from sklearn.linear_model import LogisticRegression\nLogisticRegression()",
        s4="HTML('<div style=\"height:525px\"></div><script>draw()</script>')",
        s5="class Both:\n    def _repr_latex_(self):\n        return r'$\\begin{tabular}{l}x\\end{tabular}$'\n"
        "    def _repr_html_(self):\n        return '<table><tr><th>best</th></tr></table>'\nBoth()",
        s6="import traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n"
        "    print(traceback.format_exc())",
    )
    folder = put(shared, text, "03_contents")
    done = shared.lab("report", "03_contents")
    assert done.returncode == 0, done.stdout + done.stderr
    readme, page = ((folder / name).read_text("utf-8") for name in ("README.md", "report.html"))
    return readme, page, pdf_text(folder / "report.pdf")


def test_formulas_are_set_whatever_symbols_and_spaces_they_have(reported):
    readme, page, pdf = reported
    assert r"$`\alpha = 1`$" in readme
    assert "costs \\$ 5, `$ x_1 $`" in readme
    for symbol in "∩⊙⊗⨂":
        assert symbol in page
        assert symbol in pdf
    for text in (readme, page, pdf):
        assert r"\textbf{raw}" in text
    assert "(7)" in pdf
    assert r"\label" not in pdf
    assert "(</mo><mn>7" in page.replace(' stretchy="false" form="prefix"', "")


def test_a_list_goes_on_counting(reported):
    assert '<ol start="2"' in reported[1]
    assert "2. two" in reported[2]


def test_headings_outside_the_seven_sections_take_none_from_the_contents(reported):
    contents = reported[1].split("<nav")[1].split("</nav>")[0]
    assert [f"{number}. " in contents for number in range(1, 8)] == [True] * 7
    assert "stray" not in contents
    assert contents.count("3. Data") == 1


def test_markdown_that_a_cell_shows_is_read_like_prose(reported):
    readme, page, _ = reported
    assert "<li>first</li>" in page
    assert "Recall @10, [@x]" in page
    assert "- first" in readme.replace("-   first", "- first")


def test_an_estimator_is_a_line_and_what_needs_scripts_is_named(reported):
    readme, page, pdf = reported
    for text in (readme, page, pdf):
        assert "LogisticRegression()" in text
        assert "Interactive: see report.ipynb" in text
        assert "rerun this cell" not in text
    assert "<th>best</th>" in page  # and not the LaTeX of the same
    assert "tabular" not in pdf


def test_a_traceback_is_the_same_in_every_process(reported):
    assert "ZeroDivisionError" in reported[0]
    assert "/ipykernel/" in reported[0]


def test_a_pdf_that_cannot_be_set_takes_nothing_else_with_it(shared):
    (shared.root / "notebooks/drawing.jpg").write_bytes(PNG)  # not what its name says
    folder = put(shared, notebook(p1="We expect 5. ![it](drawing.jpg)"), "04_no_pdf")
    done = shared.lab("report", "04_no_pdf")
    assert done.returncode == 1
    assert "there is no PDF, because typst failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert "report.pdf" not in done.stdout
    assert {path.name for path in folder.iterdir()} >= {"README.md", "report.html"}


@pytest.mark.torch
def test_a_report_that_names_no_run_any_more_has_no_card_of_one(trained, tmp_path):
    shutil.copytree(trained.root, tmp_path / "lab", symlinks=True)
    project = Project(tmp_path / "lab")
    find = f"from {project.package}.lab.records import find\nfrom pathlib import Path\n"
    text = notebook(s5=find + "record = find(Path.cwd().parent, 'latest')")
    report = put(project, text)
    project.lab("report", "02_small", "--to", "md", "--readme", check=True)
    assert (report / "run" / "result.json").exists()
    put(project, text.replace("record = find(", "found = find("))
    project.lab("report", "02_small", "--to", "md", "--readme", check=True)
    assert not (report / "run").exists()
    assert "No experiment is reported yet." in (project.root / "README.md").read_text()


def test_a_run_is_not_put_in_the_place_of_two(shared, trained):
    shutil.copytree(trained.root / "runs", shared.root / "runs")
    cell = "%run ../train.py --epochs 1 --seed {}\n"
    text = notebook(start="run = None", s5=cell.format(1), s6=cell.format(2))
    put(shared, text.replace("steps = 3", "run = None"), "05_two")
    done = shared.lab("report", "05_two", "--run", "latest")
    assert done.returncode == 2
    assert "2 cells with `%run ../train.py ...`; --run can replace only one" in done.stderr


def test_true_and_false_are_values_and_no_words(shared):
    folder = put(shared, notebook(s5="print(steps, bool(steps))"), "06_false")
    shared.lab("report", "06_false", "-p", "steps", "false", check=True)
    assert "False False" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_lost_letter_is_named_before_an_emoji(shared):
    put(shared, notebook(p1="We expect 5. \U0001f389, then \u0e44\u0e17\u0e22."), "07_letters")
    done = shared.lab("report", "07_letters")
    assert done.returncode == 1
    assert "(thai character" in done.stderr
    put(shared, notebook(p1="We expect 5. \U0001f389"), "08_emoji")
    done = shared.lab("report", "08_emoji")
    assert done.returncode == 0
    assert "(party popper)" in done.stderr


def test_an_old_pandoc_of_the_machine_is_not_asked_where_the_project_has_its_own(shared, tmp_path):
    old = tmp_path / "pandoc"  # Debian 12's says this of our options
    old.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo pandoc 2.17.1.1 && exit\n'
        "echo Unknown option --embed-resources. >&2\nexit 6\n"
    )
    old.chmod(0o755)
    folder = put(shared, notebook(), "04_old")
    path = f"{tmp_path}{os.pathsep}{shared.env['PATH']}"
    done = shared.lab("report", "04_old", "--to", "html", env={"PATH": path})
    assert done.returncode == 0, done.stderr
    assert (folder / "report.html").exists()


def test_what_fills_pages_is_whole_in_the_html_alone(shared):
    text = notebook(s6="print('\\n'.join(f'step {number}' for number in range(20_000)))")
    report = put(shared, text, "02_pages")
    shared.lab("report", "02_pages", "--to", "md,html", check=True)
    assert "step 12345" in (report / "report.html").read_text(encoding="utf-8")
    page = (report / "README.md").read_text(encoding="utf-8")
    assert "… 19994 lines, see the HTML …" in page
    assert len(page) < 10_000


def test_corners_of_prose_and_paths_are_whole_in_each_format(shared):
    picture = base64.b64encode(PNG).decode()
    text = notebook(
        p1=f"![drawn](data:image/png;base64,{picture})\n\nfirst line<br>second line\n\n### Details",
        p2="[to](#Übersicht) and [details](#Details)\n\n### Übersicht\n\nx\n\n### Details",
        s3="from pathlib import Path; root = Path.cwd().parent; print(root, f'{root}-data/x',"
        " f'https://example.org{root}/y', f'saved in {root}.', sep='\\n')",
    )
    report = put(shared, text, "12_corners")
    done = shared.lab("report", "12_corners")
    assert done.returncode == 0, done.stdout + done.stderr
    readme = (report / "README.md").read_text(encoding="utf-8")
    page = (report / "report.html").read_text(encoding="utf-8")
    pdf = pdf_text(report / "report.pdf")
    (kept,) = (report / "figures").iterdir()
    assert kept.read_bytes() == PNG
    assert f"(figures/{kept.name})" in readme
    assert picture in page
    assert re.search(r"first line\s+second line", pdf)
    assert "(#übersicht)" in readme
    assert 'href="#übersicht"' in page
    here = shared.root
    said = f".\n{here}-data/x\nhttps://example.org{here}/y\nsaved in ..\n"
    assert said in html.unescape(page).replace("</code>", "\n")


def test_a_notebook_edited_while_it_is_executed_has_a_stale_report(shared):
    edit = "from pathlib import Path; path = Path('02_meanwhile.py'); text = path.read_text()\n"
    edit += "path.write_text(text.replace('Some words.', 'Other %s.' % 'words', 1))"
    report = put(shared, notebook(s3=edit), "02_meanwhile")
    done = shared.lab("report", "02_meanwhile", "--to", "md", check=True)
    assert "its report is stale: the notebook changed since" in done.stdout
    assert "Other words." not in (report / "README.md").read_text()
    text = (shared.root / "notebooks/02_meanwhile.py").read_text()
    assert text.count("Other words.") == 1
    done = shared.lab("report", "02_meanwhile", "--to", "md", check=True)
    assert "no code changed" in done.stdout
    assert "the notebook changed since" not in done.stdout
    cells = json.loads((report / "report.ipynb").read_text())["cells"]
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))  # executed, also when outputs are reused
    assert (report / "README.md").read_text().count("Other words.") == 1


def test_what_is_too_large_for_a_record_card_is_refused_before_the_training(shared):
    report = put(shared, notebook(s5="out = !python ../train.py --epochs 1"), "02_large")
    data = shared.root / "results.bin"
    for number in range(3):
        data.with_name(f"results_{number}.bin").write_bytes(os.urandom(90_000))
    try:
        done = shared.lab("report", "02_large", "--to", "md")
        assert done.returncode == 2
        assert (
            "too much for a report; commit what `git status` lists, or let git ignore it"
            in done.stderr
        )
        assert not (report / "report.ipynb").exists()
        put(shared, notebook(s5="1  # of a run by: python train.py"), "02_no_training")
        shared.lab("report", "02_no_training", "--to", "md", check=True)
        with (shared.root / ".gitignore").open("a") as ignored:
            ignored.write("results_*.bin\n")
        shared.lab("report", "02_large", "--to", "md", check=True)
    finally:
        for number in range(3):
            data.with_name(f"results_{number}.bin").unlink()


def test_parameters_that_are_no_python_are_refused_in_one_line(shared):
    put(shared, notebook().replace("steps = 3", "steps = !ls"), "04_odd")
    done = shared.lab("report", "04_odd", "-p", "steps", "1")
    assert done.returncode == 2
    assert "lab: the cell tagged `parameters` is not plain Python" in done.stderr
