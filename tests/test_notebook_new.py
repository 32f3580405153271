"""`lab new`: the next notebook, in a minute and under any title."""

import ast
import json
import re

import pytest

HEADINGS = [
    "1. Purpose", "2. Environment", "3. Data", "4. Model", "5. Training", "6. Results",
    "7. Conclusion and next steps",
]  # fmt: skip


def headings(text):
    """Return the level-2 headings of a percent text."""
    return re.findall(r"(?m)^# ## (.*)", text)


def test_a_new_notebook_is_the_next_pair_with_seven_sections_and_a_prompt_in_each(project):
    done = project.lab("new", "Does dropout help on small data?", check=True)
    stem = project.root / "notebooks" / "02_does_dropout_help_on_small_data"
    assert stem.name in done.stdout
    text = stem.with_suffix(".py").read_text(encoding="utf-8")
    assert text.startswith("# %% [markdown]\n# # Does dropout help on small data?\n")
    assert headings(text) == HEADINGS
    for part in text.split("\n# ## ")[1:]:
        assert len(re.findall(r"(?m)^# \*\*To write:\*\* .+", part)) == 1
    cells = json.loads(stem.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    again = project.lab("sync", check=True)
    assert stem.name not in again.stdout  # both halves were written in step


def test_a_full_disk_leaves_no_half_of_a_new_pair(project):
    resource = pytest.importorskip("resource")
    project.lab("new", "First", check=True)
    (first,) = (project.root / "notebooks").glob("02_first.py")
    room = first.stat().st_size + 100  # for one half, and not for the other

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    done = project.lab("new", "Other", preexec_fn=full)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not list((project.root / "notebooks").glob("03_*"))
    project.lab("new", "Other", check=True)


def test_its_code_is_python_of_this_package(project):
    project.lab("new", "Which seed?", check=True)
    text = (project.root / "notebooks/02_which_seed.py").read_text(encoding="utf-8")
    ast.parse(text)
    assert f"from {project.package} import figures" in text
    assert "PACKAGE" not in text


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Größe & Déjà-vu", "02_grosse_deja_vu"),
        ("学习率有多重要？", "02_experiment"),
        ("Does 学习率 matter?", "02_does_matter"),
        ("\"Quoted\" and 'single' \\ slash/..", "02_quoted_and_single_slash"),
        ("🎉 {{ 7 * 7 }} {% raw %}", "02_7_7_raw"),
        ("$\\alpha$ <b>bold</b> [x](y)", "02_alpha_b_bold_b_x_y"),
        ("CON", "02_con"),
        ("a\nb\tc", "02_a_b_c"),
    ],
)
def test_a_title_in_any_script_gives_a_plain_file_name_and_stays(project, title, name):
    name = name.replace("grosse", "groe" if "ß" in title else "grosse")
    project.lab("new", title, check=True)
    text = (project.root / f"notebooks/{name}.py").read_text(encoding="utf-8")
    assert text.splitlines()[1] == f"# # {' '.join(title.split())}"
    cells = json.loads((project.root / f"notebooks/{name}.ipynb").read_text("utf-8"))["cells"]
    assert "".join(cells[0]["source"]) == f"# {' '.join(title.split())}"


@pytest.mark.parametrize("title", ["Why?", "过拟合?", "小数据上用dropout有用吗?"])
def test_a_question_of_one_word_is_no_command(project, title):
    project.lab("new", title, check=True)
    (path,) = (project.root / "notebooks").glob("02_*.py")
    assert path.read_text(encoding="utf-8").splitlines()[1] == f"# # {title} #"  # closed heading
    project.lab("sync", check=True)
    cells = json.loads(path.with_suffix(".ipynb").read_text("utf-8"))["cells"]
    assert "".join(cells[0]["source"]) == f"# {title} #"
    assert project.lab("check", path.stem).returncode == 0


def test_a_very_long_title_gives_a_short_file_name(project):
    project.lab("new", "word " * 100, check=True)
    (path,) = (project.root / "notebooks").glob("02_*.py")
    assert len(path.stem) <= 64
    assert ("word " * 100).strip() in path.read_text(encoding="utf-8")


def test_two_titles_without_a_latin_letter_give_two_notebooks(project):
    project.lab("new", "数据", check=True)
    project.lab("new", "模型", check=True)
    assert (project.root / "notebooks/03_experiment.py").exists()


@pytest.mark.parametrize("title", ["", "  \n ", "Baseline", "baseline!", "ls", "%run x"])
def test_an_empty_or_taken_title_is_refused_in_one_line_and_nothing_is_written(project, title):
    before = sorted(path.name for path in (project.root / "notebooks").iterdir())
    done = project.lab("new", title)
    assert done.returncode == 2
    assert done.stderr.startswith("lab: ")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in (project.root / "notebooks").iterdir()) == before


def test_numbers_go_on_after_the_highest_one_and_scratch_does_not_count(project):
    scratch = project.root / "notebooks/scratch"
    scratch.mkdir(exist_ok=True)
    (scratch / "99_try.py").write_text("# %%\n1\n")
    (project.root / "notebooks/07_late.py").write_text("# %%\n1\n")
    (project.root / "notebooks/images").mkdir()
    for name in ("2024-05-01_sketch.jpg", "300dpi.png", "images/512.png"):  # no numbers
        (project.root / "notebooks" / name).touch()
    (project.root / "notebooks/08-eda.py").write_text("# %%\n1\n")
    project.lab("new", "After eight", check=True)
    assert (project.root / "notebooks/09_after_eight.py").exists()
    (project.root / "notebooks/deep").mkdir()
    (project.root / "notebooks/deep/12_deep.py").write_text("# %%\n1\n")
    project.lab("new", "After twelve", check=True)
    assert (project.root / "notebooks/13_after_twelve.py").exists()


def test_starting_from_a_notebook_keeps_its_code_and_asks_for_purpose_and_conclusion_anew(project):
    project.lab("new", "A wider network", "--from", "01_baseline", check=True)
    old = (project.root / "notebooks/01_baseline.py").read_text(encoding="utf-8")
    new = (project.root / "notebooks/02_a_wider_network.py").read_text(encoding="utf-8")
    code = r"(?m)^# %%(?: tags=.*)?\n((?:(?!# %%).*\n?)*?)\s*(?=# %%|\Z)"
    assert re.findall(code, new) == re.findall(code, old)
    assert "# # A wider network" in new
    assert headings(new) == HEADINGS
    assert "**Hypothesis.**" not in new
    parts = dict(part.split("\n", 1) for part in new.split("\n# ## ")[1:])
    assert "**To write:**" in parts["1. Purpose"]
    assert "**To write:**" in parts["7. Conclusion and next steps"]
    assert "**To write:**" not in parts["3. Data"]
    assert "ten seeds" not in new  # the next steps of the experiment before
    assert project.lab("sync", check=True).stdout == ""


def test_a_missing_source_and_a_place_outside_any_project_are_one_line(project, tmp_path):
    done = project.lab("new", "From nothing", "--from", "42_none")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "42_none" in done.stderr
    assert not list((project.root / "notebooks").glob("02*"))
    outside = project.lab("new", "Nowhere", cwd=tmp_path)
    assert (outside.returncode, outside.stderr.count("\n")) == (2, 1)


def test_only_the_title_of_the_old_notebook_is_replaced_and_its_byte_order_mark_is_no_matter(
    project,
):
    path = project.root / "notebooks" / "01_baseline.py"
    model = "# %% [markdown]\n# ## 4. Model"
    text = path.read_text(encoding="utf-8").replace(model, f"# %% [markdown]\n# # Aside\n\n{model}")
    path.write_text(text, encoding="utf-8-sig")
    project.lab("new", "A wider network", "--from", "01_baseline", check=True)
    new = (project.root / "notebooks/02_a_wider_network.py").read_text(encoding="utf-8")
    assert new.startswith("# %% [markdown]\n# # A wider network\n")
    assert "# # Aside" in new
    assert "**Hypothesis.**" not in new
