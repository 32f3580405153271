"""People go on editing while something runs: recorded and judged is what ran."""

import json

import pytest
from conftest import Project, commit_all

pytestmark = [pytest.mark.torch, pytest.mark.slow]

LOSS = "cross_entropy(logits, labels)"
SMOOTH = (
    "from pathlib import Path; path = Path({path!r}); text = path.read_text();"
    f"path.write_text(text.replace({LOSS!r}, {LOSS[:-1] + ', label_smoothing=0.1)'!r}))"
)


def interrupted_by(project: Project, file: str, line: str) -> Project:
    """Let a person do what $MEANWHILE says, before `line` of a `file` runs."""
    path = project.root / file
    text = path.read_text(encoding="utf-8")
    assert text.count(line) == 1
    indent = line[: len(line) - len(line.lstrip())]
    act = f'{indent}import os; exec(os.environ.get("MEANWHILE", ""))\n'
    path.write_text(text.replace(line, act + line), encoding="utf-8")
    return commit_all(project)


def test_an_edit_while_torch_is_imported_is_named_in_the_record_and_by_the_verdict(repository):
    package = f"src/{repository.package}"
    interrupted_by(repository, f"{package}/config.py", "import tyro\n")
    edit = SMOOTH.format(path=str(repository.root / "train.py"))
    done = repository.train("--epochs", "1", env={"MEANWHILE": edit}, check=True)
    says = "edited while it began, so other code may have run: train.py"
    assert f"warning: {says}" in done.stdout
    done = repository.lab("verify", "latest")
    assert done.returncode == 1
    assert f"code: {says}" in done.stdout
    repository.train("--epochs", "2", "--stop-after-epochs", "1", check=True)
    assert "warning" not in json.loads((repository.runs()[-1] / "code.json").read_text())
    done = repository.train("--resume", "latest", env={"MEANWHILE": edit}, check=True)
    assert f"warning: {says}" in done.stdout


def test_a_resumed_run_records_the_code_that_goes_on_and_not_a_later_edit(repository):
    data = f"src/{repository.package}/data.py"
    interrupted_by(repository, data, '    path = Path(__file__).with_name("digits.npz")\n')
    repository.train("--epochs", "3", "--stop-after-epochs", "1", check=True)
    edit = SMOOTH.format(path=str(repository.root / "train.py"))
    go_on = ("--resume", "latest", "--stop-after-epochs", "2")
    done = repository.train(*go_on, env={"MEANWHILE": edit}, check=True)
    assert "warning" not in done.stdout  # what goes on is the code that began
    done = repository.train("--resume", "latest", check=True)
    assert "warning: the code changed since this run began" in done.stdout


def test_a_card_that_git_replaces_while_it_is_verified_gets_no_verdict_of_another(repository):
    interrupted_by(repository, f"src/{repository.package}/config.py", "import tyro\n")
    repository.train("--epochs", "2", check=True)
    card = repository.root / "reports" / "01_baseline" / "run"
    script = f"from {repository.package}.lab import records; from pathlib import Path\n"
    script += "record = records.find(Path.cwd(), 'latest')\n"
    script += f"records.write_card(record, Path({str(card)!r}))"
    repository.python("-c", script, check=True)
    switch = "from pathlib import Path\n"
    for name, old, new in (
        ("result.json", '"epochs": 2', '"epochs": 3'),
        ("metrics.jsonl", '"epoch": 2', '"epoch": 3'),
    ):
        switch += f"path = Path({str(card / name)!r})\n"
        switch += f"path.write_text(path.read_text().replace({old!r}, {new!r}))\n"
    done = repository.lab("verify", "reports/01_baseline", env={"MEANWHILE": switch})
    assert ": identical" in done.stdout  # what was asked about
    assert "now holds another run" in done.stderr
    assert done.returncode == 2
    assert not (card / "verification.json").exists()
