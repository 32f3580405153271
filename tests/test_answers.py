"""Whatever a person answers: a project that works, or one line that says what to type instead."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import TEMPLATE
from cookiecutter.exceptions import FailedHookException, OutputDirExistsException
from cookiecutter.main import cookiecutter
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

HOOK = TEMPLATE / "hooks" / "pre_gen_project.py"


def refusal(capfd, folder: Path, **answers) -> str:
    """Generate in vain; return the first line that the person sees."""
    with pytest.raises(FailedHookException):
        cookiecutter(
            str(TEMPLATE),
            no_input=True,
            default_config=True,
            output_dir=str(folder),
            extra_context=answers,
        )
    return capfd.readouterr().err.splitlines()[0]


def shown(markdown: str) -> tuple[str, str]:
    """Render Markdown; return the text of its first heading and of its first emphasis."""
    inline = [token for token in MarkdownIt().parse(markdown) if token.type == "inline"]

    def text(tokens) -> str:
        words = {"softbreak": "\n", "html_inline": "\n"}
        return "".join(token.content or words.get(token.type, "") for token in tokens)

    heading = text(inline[0].children).replace("<br>", "\n")
    emphasis = next(t.children for t in inline if any(c.type == "em_open" for c in t.children))
    closing = [token.type for token in emphasis].index("em_close")
    return heading, text(emphasis[:closing]).replace("<br>", "\n")


def plain(value: str) -> str:
    """Drop the white space that Markdown drops at the ends of lines."""
    return "\n".join(" ".join(line.split()) for line in value.strip().split("\n"))


def assert_shown(root: Path, name: str, description: str, author: str) -> None:
    """Every file that shows an answer shows it as it was typed, in its own syntax."""
    heading, emphasis = shown((root / "README.md").read_text(encoding="utf-8"))
    assert plain(heading) == plain(name)
    assert plain(emphasis) == plain(description)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["description"] == description
    assert project["authors"] == [{"name": author.replace("\n", " ")}]  # metadata has one line
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["title"] == name
    assert citation["abstract"] == description
    assert citation["authors"] == [{"name": author}]
    assert author in (root / "LICENSE").read_text(encoding="utf-8")


def parse_all(root: Path) -> None:
    """Parse every file that has a syntax, but the package, which is copied as it is."""
    for path in sorted(set(root.rglob("*")) - set((root / "src").rglob("*"))):
        if path.suffix == ".py":
            compile(path.read_text(encoding="utf-8"), path, "exec")
        elif path.suffix == ".toml":
            tomllib.loads(path.read_text(encoding="utf-8"))
        elif path.suffix in (".yml", ".yaml", ".cff"):
            list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        elif path.suffix in (".json", ".ipynb"):
            json.loads(path.read_text(encoding="utf-8"))


WORKING_NAMES = {
    "My Lab": "my-lab",
    "Étude d'été": "etude-d-ete",
    "深度学习": "shen-du-xue-xi",
    "🎉🎉": "experiments",
    "数字 🎉 Lab": "shu-zi-lab",
    "The \"best\" of 'them'": "the-best-of-them",
    "$(touch pwned) `touch pwned`": "touch-pwned-touch-pwned",
    r"C:\new\table": "c-new-table",
    "x" * 100: "x" * 36,
    "3" * 100: "3" * 36,
    " ".join(["word"] * 20): "-".join(["word"] * 7),
    "../x": "x",
    "../../etc/passwd": "etc-passwd",
    "3D vision": "3d-vision",
    "Trailing dots and spaces. . ": "trailing-dots-and-spaces",
    "R&D <b>bold</b> &amp; *stars* _under_ [link](x) # |": "r-d-b-bold-b-stars-under-link-x",
    "C #": "c",
    "1e3": "1e3",
    "null and void": "null-and-void",
    "'; DROP TABLE runs; --": "drop-table-runs",
    "naïve $x^2$ ~sub~": "naive-x-2-sub",
}


@pytest.mark.parametrize(("name", "slug"), WORKING_NAMES.items(), ids=ascii)
def test_a_name_that_a_person_may_type_gives_a_project_that_shows_it(name, slug, bake):
    project = bake(project_name=name)
    assert project.root.name == slug
    assert not list(project.root.parent.rglob("pwned"))
    parse_all(project.root)
    assert_shown(
        project.root, name, "Experiments that anyone can read, diff and run again.", "Your Name"
    )
    helped = project.lab("--help")
    assert helped.returncode == 0, helped.stderr
    for command in (("check",), ("format", "--check")):  # the name stands in lines of code
        linted = project.run("ruff", *command, ".")
        assert linted.returncode == 0, linted.stdout + linted.stderr


REFUSED_NAMES = {
    "class": "a word of Python",
    "True": "a word of Python",
    "None": "a word of Python",
    "import": "a word of Python",
    "random": "a module of Python's standard library",
    "Random": "a module of Python's standard library",
    "Test": "a module of Python's standard library",  # in no list of Python's own
    "distutils": "a module of Python's standard library",  # of 3.11, gone from 3.12
    "Compression": "a module of Python's standard library",  # new in 3.14
    "Torch": "a package that projects install",
    "NumPy": "a package that projects install",
    "sklearn": "a package that projects install",
    "Scikit-learn": "a package that projects install",
    "PyYAML": "a package that projects install",
    "Pillow": "a package that projects install",
    "tests": "a file or folder of the project",
    "NUL": "a name that Windows keeps for itself",
    "com1": "a name that Windows keeps for itself",
    "Base": "an environment that conda has already",
    " ": "is blank",
    "\u200b": "is blank",
    "two\nlines": "on one line",
    "bell\a": "U+0007",
    "right\u202eleft": "U+202E",
}


@pytest.mark.parametrize(("name", "reason"), REFUSED_NAMES.items(), ids=ascii)
def test_a_name_that_cannot_work_is_refused_in_one_line_and_nothing_is_written(
    name, reason, tmp_path, capfd
):
    line = refusal(capfd, tmp_path, project_name=name)
    assert line.startswith(("project_name ", "project_slug "))
    assert reason in line
    assert "type " in line
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_shows_the_refusal_first(tmp_path):
    program = Path(sys.executable).parent / "cookiecutter"
    options = ["--no-input", "--default-config", "--output-dir", tmp_path]
    done = subprocess.run(
        [program, *options, TEMPLATE, "project_name=Torch"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == (
        "project_slug 'torch' is a package that projects install, "
        "so no project can have this name; type torch-lab"
    )
    assert list(tmp_path.iterdir()) == []


REFUSED_SLUGS = ["My Lab", "a/b", "../x", "lab.", "深", "-x", "x-", "lab ", "x" * 65, "a\\b", ""]


@pytest.mark.parametrize("slug", REFUSED_SLUGS, ids=ascii)
def test_a_folder_that_cannot_work_is_refused_in_one_line(slug, tmp_path, capfd):
    inside = tmp_path / "inside"
    inside.mkdir()
    if slug == "":  # the folder that one stands in; cookiecutter says so itself
        with pytest.raises(OutputDirExistsException, match="already exists"):
            refusal(capfd, inside, project_slug=slug)
    else:
        line = refusal(capfd, inside, project_slug=slug)
        assert "type at most 36 lower-case letters" in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("answer", ["description", "author_name"])
@pytest.mark.parametrize(
    "value", ["", "  ", "a\x00b", "tab\there", "\u2028", "\ufeffmark"], ids=ascii
)
def test_a_sentence_that_would_break_a_file_is_refused(answer, value, tmp_path, capfd):
    line = refusal(capfd, tmp_path, **{answer: value})
    assert line.startswith(f"{answer} ")
    assert "type " in line
    assert list(tmp_path.iterdir()) == []


HOSTILE = [
    'She said "no" & left\\right',
    "two\nlines\n\nand a third",
    "True",
    "1e3",
    "- list",
    "1. one",
    "# heading",
    "> quote",
    "*stars* and _lines_ and `code` and <script>alert(1)</script> &amp; [a](b) ![c](d) ~~e~~ $f$|",
    "🎉 emoji 👩\u200d🔬 and 深度学习",
    "'single' \\n \\u0041 \\\\ %s {} #{x} ${HOME} $(id) `id`",
    "key: value # comment",
    "ends with a backslash \\",
    "---",
    "é\u0301 \xa0 \u3000wide",
]


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_hostile_sentences_survive_in_every_syntax(value, bake):
    project = bake(description=value, author_name=value)
    parse_all(project.root)
    assert_shown(project.root, "Digits Lab", value, value)


SENTENCES = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Cn", "Zl", "Zp")) | st.just("\n"),
    min_size=1,
    max_size=80,
).filter(
    lambda text: (
        any(character.isalnum() for character in text)
        and not any(jinja in text for jinja in ("{{", "{%", "{#"))
        and not set(text) & set("\u061c\u200e\u200f\ufeff\u202a\u202b\u202c\u202d\u202e")
        and not set(text) & set("\u2066\u2067\u2068\u2069")
    )
)


@settings(
    max_examples=20,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    name=SENTENCES.map(lambda text: text.replace("\n", " ")),
    description=SENTENCES,
    author=SENTENCES,
)
def test_any_sentences_give_files_that_parse_and_show_them(
    name, description, author, tmp_path_factory
):
    made = cookiecutter(
        str(TEMPLATE),
        no_input=True,
        default_config=True,
        output_dir=str(tmp_path_factory.mktemp("any")),
        extra_context={
            "project_name": name,
            "project_slug": "any-lab",
            "description": description,
            "author_name": author,
        },
    )
    parse_all(Path(made))
    assert_shown(Path(made), name, description, author)


OPTIONS = {
    "python_version": ["3.11", "3.12", "3.13"],
    "license": ["MIT", "BSD-3-Clause", "Apache-2.0", "Proprietary"],
}


def test_at_most_six_questions_are_asked_each_with_a_prompt():
    answers = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
    asked = [answer for answer in answers if not answer.startswith("_")]
    assert len(asked) <= 6
    assert set(asked) == set(answers["__prompts__"])
    assert {answer: answers[answer] for answer in OPTIONS} == OPTIONS


def test_the_hook_knows_every_package_that_the_project_asks_for(pristine):
    """`src/torch` would come before the real one."""
    asked = tomllib.loads((pristine.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = asked["dependencies"] + asked["optional-dependencies"]["dev"]
    imported = {"scikit-learn": "sklearn", "pypandoc-binary": "pypandoc", "pyyaml": "yaml"}
    known = HOOK.read_text(encoding="utf-8").split('INSTALLED = set(\n    """')[1].lower().split()
    for line in lines:
        name = line.split(">")[0].split("=")[0].strip().lower()
        for taken in (name, imported.get(name, name)):
            assert taken.replace("-", "_") in known, name
