"""The generated README, taken at its word."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TEMPLATE, Project
from notebook_pairs import HOOKS_HOME, build_hooks

BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def readme(pristine) -> str:
    """Read the README of the default bake."""
    return (pristine.root / "README.md").read_text(encoding="utf-8")


def section(readme: str, title: str) -> str:
    """Return one section."""
    return readme.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def add(project, readme: str, title: str, table: str) -> None:
    """Do what a section says: put a function before a table, and a line in it."""
    text = section(readme, title)
    file = re.search(r"`(src/\S+\.py)`", text)[1]
    function, line = [code for language, code in BLOCK.findall(text) if language == "python"]
    path = project.root / file
    code = path.read_text(encoding="utf-8")
    start = code.index(f"\n{table}:") + 1
    opened = code.index("{\n", start) + 2
    code = code[:start] + function + "\n\n" + code[start:opened] + line + code[opened:]
    path.write_text(code, encoding="utf-8", newline="\n")


@pytest.mark.slow
@pytest.mark.torch
def test_a_model_and_a_data_set_are_one_function_and_one_line_each(project, readme):
    add(project, readme, "Add a model", "MODELS")
    add(project, readme, "Add a data set", "DATASETS")
    files = [f"src/{project.package}/{name}.py" for name in ("models", "data")]
    linted = project.run("ruff", "check", *files)
    assert linted.returncode == 0, linted.stdout
    formatted = project.run("ruff", "format", "--check", *files)
    assert formatted.returncode == 0, formatted.stdout
    command = ["--epochs", "3", "--dataset", "stripes", "--model", "mlp"]
    trained = project.train(*command)
    assert trained.returncode == 0, trained.stderr
    listed = project.lab("runs", "--json", check=True).stdout
    assert '"stripes"' in listed
    assert '"mlp"' in listed
    config = project.root / "src" / project.package / "config.py"
    default = 'dataset: str = "digits"'
    assert default in config.read_text(encoding="utf-8")
    stripes = config.read_text(encoding="utf-8").replace(default, 'dataset: str = "stripes"')
    config.write_text(stripes, encoding="utf-8")
    tested = project.run("pytest", "-q", "tests")  # the defaults are the researcher's
    assert tested.returncode == 0, tested.stdout


@pytest.mark.slow
@pytest.mark.torch
def test_a_trained_model_is_loaded_as_the_readme_says(trained, readme):
    ((_, code),) = BLOCK.findall(section(readme, "Trained models and sweeps"))
    code += """
guesses = model(normalise(splits.test.pixels, *splits.statistics)).argmax(1)
print((guesses == splits.test.labels).float().mean().item() - record.result["test_accuracy"])
"""
    done = trained.python("-c", code, check=True)
    assert abs(float(done.stdout.splitlines()[-1])) < 1e-6


def test_a_clone_is_five_commands_from_a_verified_run(readme):
    _, commands = BLOCK.findall(section(readme, "From a clone to a verified run"))[0]
    assert len(commands.splitlines()) == 5
    assert commands.splitlines()[-1].startswith("lab verify")


def test_what_is_typed_after_generating_is_what_the_readme_says(readme, tmp_path):
    program = Path(sys.executable).parent / "cookiecutter"
    options = ["--no-input", "--default-config", "--output-dir", tmp_path]
    done = subprocess.run(
        [program, *options, TEMPLATE], capture_output=True, encoding="utf-8", check=True
    )
    shown = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    _, commands = BLOCK.findall(section(readme, "From a clone to a verified run"))[0]
    assert shown == ["cd digits-lab", *commands.splitlines()]


@pytest.mark.slow
@pytest.mark.torch
def test_a_second_experiment_is_new_edit_report_commit_and_the_checks_are_content(repository):
    build_hooks(repository)
    home = {"PRE_COMMIT_HOME": str(HOOKS_HOME)}
    repository.lab("setup", check=True, env=home)
    repository.lab("new", "Does a smaller learning rate help?", check=True)
    repository.git("add", "notebooks")
    drafted = repository.git("commit", "-m", "a draft", env=home)
    assert "section 1 still holds its prompt" in drafted.stdout + drafted.stderr
    (half,) = (repository.root / "notebooks").glob("02_*.py")
    text = half.read_text(encoding="utf-8").replace("epochs = 30", "epochs = 2")
    half.write_text(re.sub(r"\*\*To write:\*\*.*", "At least 90%.", text), encoding="utf-8")
    repository.lab("report", "02", "--readme", check=True)
    repository.git("add", "notebooks", "reports", "README.md")
    repository.git("commit", "-m", "a second experiment", env=home)
    checked = repository.lab("check", "--strict")
    assert checked.returncode == 0, checked.stdout
    assert repository.git("status", "--porcelain").stdout == ""


@pytest.mark.slow
@pytest.mark.torch
def test_a_report_outlives_its_squashed_branch_and_is_verified_in_a_colleagues_clone(
    repository, tmp_path
):
    build_hooks(repository)
    home = {"PRE_COMMIT_HOME": str(HOOKS_HOME)}
    repository.lab("setup", check=True, env=home)
    remote, clone = tmp_path / "remote.git", Project(tmp_path / "clone")
    subprocess.run(["git", "clone", "-q", "--bare", repository.root, remote], check=True)
    repository.git("remote", "add", "origin", remote)
    repository.git("fetch", "-q", "origin")
    repository.git("switch", "-qc", "feature")
    models = repository.root / "src" / repository.package / "models.py"
    models.write_text(models.read_text().replace("nn.ReLU(),", "nn.GELU(),"), encoding="utf-8")
    repository.git("commit", "-qam", "another activation", env=home)
    repository.lab("report", "01_baseline", "-p", "epochs", "2", "--to", "md", check=True)
    repository.git("add", "reports")
    repository.git("commit", "-qm", "its report", env=home)
    repository.git("switch", "-q", "main")
    repository.git("merge", "-q", "--squash", "feature")
    repository.git("commit", "-qm", "all at once", env=home)
    repository.git("push", "-q", "origin", "main", env=home)
    subprocess.run(["git", "clone", "-q", remote, clone.root], check=True)
    shutil.rmtree(repository.root)
    clone.lab("setup", check=True, env=home)
    done = clone.lab("verify", "reports/01_baseline")
    assert ": identical" in done.stdout, done.stdout + done.stderr
    changed = clone.git("status", "--porcelain", "-uall").stdout.split()
    assert changed == ["??", "reports/01_baseline/run/verification.json"]


def test_the_table_names_every_command_and_option_that_there_is(readme, pristine):
    table = section(readme, "Commands")
    helped = pristine.lab("--help", check=True).stdout
    commands = set(re.findall(r"(?m)^    ([a-z]+)  ", helped))
    assert len(commands) >= 13
    assert commands == set(re.findall(r"`lab ([a-z]+)", table))
    for command in commands:
        own = pristine.lab(command, "--help", check=True).stdout
        row = next(row for row in table.splitlines() if f"`lab {command}" in row)
        if len(re.findall(r"`lab ", row)) == 1:
            for option in re.findall(r"`(-[a-z-]+)", row):
                assert option in own, f"lab {command} has no {option}"


def test_its_links_lead_somewhere(readme, pristine):
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"(?m)^#+ (.*)$", readme)
    }
    for target in re.findall(r"\]\(([^)]+)\)", readme):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("https://"):
            assert (pristine.root / target).exists(), target


def test_it_says_which_version_made_it(readme):
    assert re.search(r"Made by version \d+\.\d+\.\d+ of the template", readme)
    assert "cruft link" in readme
    assert "cruft update" in readme


def test_the_files_that_it_names_are_there(readme, pristine):
    for name in re.findall(r"`([\w.-]+\.(?:py|yml|toml))`", readme):
        found = list(pristine.root.glob(f"**/{name}"))
        assert found or "lock" in name, name
