"""The generated workflow's own commands, run here as they stand: a green project stays green."""

import os
import sys
from pathlib import Path

import pytest
import yaml
from notebook_pairs import HOOKS_HOME

pytestmark = [pytest.mark.slow, pytest.mark.torch]


@pytest.fixture(scope="module")
def jobs(pristine) -> dict:
    """Read the workflow."""
    text = (pristine.root / ".github/workflows/checks.yml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["jobs"]


def commands(job: dict) -> list[str]:
    """Return what a job runs, the installation apart."""
    steps = [step["run"] for step in job["steps"] if "run" in step and "if" not in step]
    return [step for step in steps if " pip install " not in f" {step}"]


def run(project, command: str, **env):
    """Run a command as a runner does; `lab` is the project's own."""
    shims = project.root.parent / "bin"
    shims.mkdir(exist_ok=True)
    lab = shims / "lab"
    lab.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m {project.package}.lab.cli "$@"\n', "utf-8"
    )
    lab.chmod(0o755)
    path = os.pathsep.join([str(shims), str(Path(sys.executable).parent), os.environ["PATH"]])
    return project.run(
        "bash",
        "-eo",
        "pipefail",
        "-c",
        command,
        env={"PATH": path, "PRE_COMMIT_HOME": str(HOOKS_HOME), **env},
    )


def test_a_project_with_a_report_passes_every_check(repository, jobs):
    made = repository.lab("report", "01_baseline", "--to", "md")
    assert made.returncode == 0, made.stdout + made.stderr
    repository.lab("report", "--readme", check=True)
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "report", "--no-verify")
    asked = commands(jobs["hooks"])
    assert any("pre-commit run --all-files" in command for command in asked)
    for command in asked:
        done = run(repository, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert repository.git("status", "--porcelain").stdout == ""


def test_a_notebook_that_changed_is_executed_and_one_that_fails_is_noticed(repository, jobs):
    (command,) = commands(jobs["notebooks"])
    base = repository.git("rev-parse", "HEAD").stdout.strip()
    repository.lab("new", "Does it fail?", "--from", "01_baseline", check=True)
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "a notebook", "--no-verify")
    (path,) = (repository.root / "notebooks").glob("02*.py")
    path.write_text(path.read_text(encoding="utf-8") + "\n# %%\n1 / 0\n", encoding="utf-8")
    repository.lab("sync", check=True)
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "an error", "--no-verify")
    done = run(repository, command, BASE=base)
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stdout + done.stderr
    assert run(repository, command, BASE="HEAD").returncode == 0


def test_a_notebook_that_has_no_epochs_is_executed_as_it_is(repository, jobs):
    (command,) = commands(jobs["notebooks"])
    base = repository.git("rev-parse", "HEAD").stdout.strip()
    repository.lab("new", "How many images are there?", check=True)
    (path,) = (repository.root / "notebooks").glob("02*.py")
    path.write_text("# %% [markdown]\n# # How many?\n\n# %%\nprint(40 + 2)\n", encoding="utf-8")
    (path.parent / "helpers.py").write_text("FORTY = 40\n", encoding="utf-8")
    repository.lab("sync", check=True)
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "no training", "--no-verify")
    done = run(repository, command, BASE=base)
    assert done.returncode == 0, done.stdout + done.stderr
    (readme,) = (repository.root / "reports").glob("02*/README.md")
    assert "42" in readme.read_text(encoding="utf-8")
