"""A year later: a project takes over a newer template, by real cruft, and loses nothing.

The tags are made here: v1 is the present template made older, v2 is the present one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import TEMPLATE, Project
from cookiecutter.main import cookiecutter

pytestmark = pytest.mark.slow

HOUSE = "{{cookiecutter.project_slug}}"
PACKAGE = f"{HOUSE}/src/{{{{cookiecutter.__package_name}}}}"
CRUFT = Path(sys.executable).parent / "cruft"
NEWER = {  # what version 2 has and version 1 had otherwise: (file, new, old)
    "cookiecutter.json": (r'"_version": "[^"]+"', '"_version": "0.0.9"'),
    f"{HOUSE}/environment.yml": (r"torchinfo>=[\d.]+", "torchinfo>=1.6"),
    f"{HOUSE}/pyproject.toml": (r'"torchinfo>=[\d.]+', '"torchinfo>=1.6'),
    f"{HOUSE}/train.py": (r'\A"""', '"""(In version 1.) '),
    f"{HOUSE}/README.md": (r"\Z", "\nA line of version 1.\n"),
    f"{PACKAGE}/lab/records.py": (r'\A"""', '"""(In version 1.) '),
    f"{PACKAGE}/config.py": (r'\A"""', '"""(In version 1.) '),
    f"{PACKAGE}/models.py": (r'\A"""', '"""(In version 1.) '),
}
GIT = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]


def git(folder: Path, *arguments: str) -> str:
    """Run git; it must succeed."""
    done = subprocess.run(
        [*GIT, *arguments], cwd=folder, check=True, capture_output=True, encoding="utf-8"
    )
    return done.stdout


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Make a repository of the template with the tags v1 and v2, v2 on its main branch."""
    folder = tmp_path_factory.mktemp("origin") / "template"
    folder.mkdir()
    for name in ("cookiecutter.json", "hooks", HOUSE):
        source = TEMPLATE / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    present = {name: (folder / name).read_text(encoding="utf-8") for name in NEWER}
    for name, (new, old) in NEWER.items():
        text, count = re.subn(new, old.replace("\\", r"\\"), present[name], count=1)
        assert count == 1, name
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    citation = (folder / HOUSE / "Dockerfile").read_bytes()
    (folder / HOUSE / "Dockerfile").unlink()
    (folder / PACKAGE / "lab" / "old.py").write_text('"""Gone in version 2."""\n', "utf-8")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "version 1")
    git(folder, "tag", "v1")
    for name, text in present.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    (folder / HOUSE / "Dockerfile").write_bytes(citation)
    (folder / PACKAGE / "lab" / "old.py").unlink()
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "version 2")
    git(folder, "tag", "v2")
    return folder


def commit(project: Project, message: str) -> None:
    """Commit everything."""
    project.git("add", "-A")
    project.git("commit", "-q", "-m", message, "--no-verify")


def change(project: Project, name: str, old: str, new: str) -> None:
    """Edit a file as a person would; what is edited must be there."""
    path = project.root / name
    text = path.read_text(encoding="utf-8")
    assert re.search(old, text), f"{name} has no {old}"
    path.write_text(re.sub(old, new, text, count=1), encoding="utf-8", newline="\n")


def do_research(project: Project) -> dict[str, str]:
    """Change what a researcher changes; return the lines that must not be lost."""
    package = f"src/{project.package}"
    change(project, "train.py", r"\Z", "\n# my schedule\n")
    change(project, f"{package}/models.py", r"(?m)^MODELS.*\{", r'\g<0>\n    "mine": simple_cnn,')
    change(project, f"{package}/data.py", r"\Z", "\n# my data set\n")
    change(project, f"{package}/config.py", r"(?m)^    seed: int = 42", "    mine: int = 3\n\\g<0>")
    change(project, "environment.yml", r"(?m)^  - pytest", "  - pandas>=2\n\\g<0>")
    change(project, "notebooks/01_baseline.py", r"\Z", "\n# %% [markdown]\n# My finding.\n")
    change(project, "README.md", r"\Z", "\nMy lab's rules.\n")
    mine = {
        "train.py": "# my schedule",
        f"{package}/models.py": '"mine": simple_cnn',
        f"{package}/data.py": "# my data set",
        f"{package}/config.py": "mine: int = 3",
        "environment.yml": "pandas>=2",
        "notebooks/01_baseline.py": "My finding.",
        "README.md": "My lab's rules.",
    }
    notebook = project.root / "notebooks" / "01_baseline.ipynb"
    if notebook.exists():
        cells = json.loads(notebook.read_text(encoding="utf-8"))
        cells["cells"].append(
            {"cell_type": "markdown", "id": "mine", "metadata": {}, "source": "My finding."}
        )
        notebook.write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
        mine["notebooks/01_baseline.ipynb"] = "My finding."
    commit(project, "research")
    return mine


def assert_updated(project: Project, mine: dict[str, str]) -> None:
    """Find what is theirs and what is new, and nothing left over."""
    assert not list(project.root.rglob("*.rej"))
    assert not list(project.root.rglob("*.orig"))
    for name, line in mine.items():
        assert line in (project.root / name).read_text(encoding="utf-8"), name
    for path in project.root.rglob("*"):
        if path.is_file() and ".git" not in path.parts and path.suffix != ".npz":
            assert not re.search(rb"(?m)^(<<<<<<<|>>>>>>>) ", path.read_bytes()), path
    lab = project.root / "src" / project.package / "lab"
    assert "In version 1" not in (lab / "records.py").read_text(encoding="utf-8")
    assert not (lab / "old.py").exists()
    assert (project.root / "Dockerfile").is_file()
    environment = (project.root / "environment.yml").read_text(encoding="utf-8")
    assert "torchinfo>=1.6" not in environment
    packages = yaml.safe_load(environment)["dependencies"]
    assert "pandas>=2" in packages


@pytest.fixture
def created(template, tmp_path) -> Project:
    """Create a project by cruft from the previous tag, and commit it."""
    options = ["--no-input", "--default-config", "--checkout", "v1", "--output-dir", str(tmp_path)]
    subprocess.run([CRUFT, "create", *options, str(template)], check=True, capture_output=True)
    project = Project(tmp_path / "digits-lab")
    project.git("init", "-q", "-b", "main")
    commit(project, "start")
    return project


def test_an_update_brings_what_is_new_and_loses_nothing(created):
    mine = do_research(created)
    assert created.run(CRUFT, "check").returncode == 1
    updated = created.run(CRUFT, "update", "--skip-apply-ask")
    assert updated.returncode == 0, updated.stdout + updated.stderr
    assert_updated(created, mine)
    commit(created, "update")
    assert created.run(CRUFT, "check").returncode == 0
    state = json.loads((created.root / ".cruft.json").read_text(encoding="utf-8"))
    version = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))["_version"]
    assert state["context"]["cookiecutter"]["_version"] == version


@pytest.mark.slow
@pytest.mark.torch
def test_an_updated_project_still_works(created):
    do_research(created)
    assert created.run(CRUFT, "update", "--skip-apply-ask").returncode == 0
    created.own_tests()
    created.train("--epochs", "1", "--model", "mine", "--mine", "4", check=True)


def test_hostile_answers_survive_an_update(template, tmp_path):
    answers = {"project_name": '深 "度" 🎉', "project_slug": "deep", "description": "a\\b\n&c"}
    options = ["--no-input", "--default-config", "--checkout", "v1", "--output-dir", str(tmp_path)]
    extra = ["--extra-context", json.dumps(answers)]
    subprocess.run([CRUFT, "create", *options, *extra, template], check=True, capture_output=True)
    project = Project(tmp_path / "deep")
    project.git("init", "-q", "-b", "main")
    commit(project, "start")
    assert project.run(CRUFT, "update", "--skip-apply-ask").returncode == 0
    assert not list(project.root.rglob("*.rej"))
    assert "In version 1" not in (project.root / "src/deep/lab/records.py").read_text("utf-8")
    assert '深 \\"度\\" 🎉' in (project.root / "CITATION.cff").read_text(encoding="utf-8")


def test_a_project_made_by_plain_cookiecutter_can_be_linked_later(template, tmp_path):
    answers = {"project_name": "Plain Lab", "author_name": "Ada"}
    old = tmp_path / "v1"
    git(template, "worktree", "add", "-q", str(old), "v1")
    root = cookiecutter(
        str(old),
        no_input=True,
        extra_context=answers,
        output_dir=str(tmp_path),
        config_file=os.devnull,
    )
    project = Project(Path(root))
    project.git("init", "-q", "-b", "main")
    commit(project, "start")
    mine = do_research(project)
    linked = project.run(
        CRUFT, "link", template, "--checkout", "v1", "--no-input", "--default-config",
        "--extra-context", json.dumps(answers),
    )  # fmt: skip
    assert linked.returncode == 0, linked.stdout + linked.stderr
    commit(project, "link")
    updated = project.run(CRUFT, "update", "--skip-apply-ask")
    assert updated.returncode == 0, updated.stdout + updated.stderr
    assert_updated(project, mine)
    assert "Ada" in (project.root / "pyproject.toml").read_text(encoding="utf-8")


def test_the_workflow_brings_an_update_to_a_branch(created, tmp_path):
    """Its steps as they stand; `gh` alone is not here, so the pull request is not opened."""
    origin = tmp_path / "origin.git"
    git(tmp_path, "clone", "-q", "--bare", str(created.root), str(origin))
    created.git("remote", "add", "origin", str(origin))
    workflow = yaml.safe_load(
        (created.root / ".github/workflows/template.yml").read_text(encoding="utf-8")
    )
    steps = {step.get("name"): step for step in workflow["jobs"]["update"]["steps"]}
    output = tmp_path / "output"
    asked = created.run(
        "bash", "-e", "-c", steps["Is there a newer template?"]["run"],
        env={"GITHUB_OUTPUT": str(output)},
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    assert output.read_text(encoding="utf-8") == "behind=yes\n"
    brought = created.run("bash", "-e", "-c", steps["Bring it in"]["run"])
    assert brought.returncode == 0, brought.stdout + brought.stderr
    assert created.git("branch", "--show-current").stdout == "template-update\n"
    assert created.git("status", "--porcelain").stdout == ""
    assert "Dockerfile" in created.git("show", "--stat", "HEAD").stdout


def test_the_workflow_leaves_what_a_colleague_did_on_its_branch(created, tmp_path):
    """`gh` is not here: one that agrees to everything stands in, to see what is pushed."""
    origin = tmp_path / "origin.git"
    git(tmp_path, "clone", "-q", "--bare", str(created.root), str(origin))
    created.git("remote", "add", "origin", str(origin))
    gh = tmp_path / "bin" / "gh"
    gh.parent.mkdir()
    gh.write_text("#!/bin/sh\n", encoding="utf-8")
    gh.chmod(0o755)
    env = {"PATH": f"{gh.parent}{os.pathsep}{created.env['PATH']}"}
    text = (created.root / ".github/workflows/template.yml").read_text(encoding="utf-8")
    steps = {step.get("name"): step for step in yaml.safe_load(text)["jobs"]["update"]["steps"]}

    def week():
        created.git("switch", "-q", "--force", "main")
        created.git("branch", "-q", "-D", "template-update", check=False)
        for name in ("Bring it in", "Open a pull request"):
            anonymous = ("env", "-u", "GIT_AUTHOR_NAME", "-u", "GIT_AUTHOR_EMAIL")  # as a runner
            done = created.run(*anonymous, "bash", "-e", "-c", steps[name]["run"], env=env)
            assert done.returncode == 0, done.stdout + done.stderr
        return git(origin, "log", "-1", "--format=%an %H", "template-update").split()

    first, again = week(), week()
    assert first[0] == again[0] == "template"
    theirs = tmp_path / "theirs"
    git(tmp_path, "clone", "-q", "--branch", "template-update", str(origin), str(theirs))
    (theirs / "resolved.txt").write_text("by hand", encoding="utf-8")
    git(theirs, "add", "-A")
    git(theirs, "-c", "user.name=Ada", "-c", "user.email=a@b", "commit", "-qm", "resolve")
    git(theirs, "push", "-q", "origin", "template-update")
    assert week()[0] == "Ada"
    created.git("switch", "-q", "--force", "main")  # merged, and there is another update
    created.git("fetch", "-q", "origin", "template-update")
    created.git("merge", "-q", "-s", "ours", "-m", "merge", "FETCH_HEAD")
    assert week()[0] == "template"
