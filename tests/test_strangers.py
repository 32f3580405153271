"""Records and notebooks from a stranger, in a pull request: reading them harms nobody."""

import json
import os
import shutil
from pathlib import Path

import pytest
from made_records import make_record
from test_verify_attacks import verify
from test_verify_causes import bare, edit, interpreter, train  # noqa: F401 (fixtures)

pytestmark = pytest.mark.slow


@pytest.fixture
def card(bare):  # noqa: F811
    """Give the record card of a run of a toy, as a pull request brings it."""
    run = train(bare)
    folder = bare.root / "reports" / "02_theirs" / "run"
    shutil.copytree(run, folder)
    return folder


def test_a_base_that_is_an_option_overwrites_no_file_when_two_runs_are_compared(bare, card):  # noqa: F811
    readme = (bare.root / "README.md").read_bytes()
    edit(card / "code.json", base="--index-output=README.md", tree="another")
    bare.lab("compare", "reports/02_theirs", bare.runs()[-1].name)
    assert (bare.root / "README.md").read_bytes() == readme


def test_a_submodule_outside_of_the_project_is_refused(bare, card):  # noqa: F811
    readme = bare.root / "README.md"
    readme.write_text("mine, and in no commit")
    for path in ("/proc/self/cwd", "../..", str(bare.root)):
        edit(card / "code.json", submodules=[{"path": path, "commit": "main", "changes": None}])
        done = bare.lab("verify", "reports/02_theirs")
        assert done.returncode == 2
        assert "outside the project" in done.stderr
    assert readme.read_text() == "mine, and in no commit"


def test_a_listed_file_outside_of_the_project_is_left_alone(bare, card):  # noqa: F811
    (bare.root / "far").mkdir()
    link = bare.root / "link"
    link.symlink_to("far")
    climb = os.path.relpath(link, "/tmp/lab-verify-12345678/code")
    edit(card / "code.json", listed=[{"path": climb, "sha256": None, "bytes": 0, "why": "x"}])
    bare.lab("verify", "reports/02_theirs")
    assert link.readlink() == Path("far")


def test_verifying_goes_on_with_no_unfinished_run_of_yours(bare):  # noqa: F811
    run = train(bare, first="import sys; assert '--resume' not in ' '.join(sys.argv)")
    edit(run / "config.json", resume="latest")
    code, verdict, _ = verify(bare)
    assert (code, verdict["failed"]) == (1, None)
    assert verdict["first_difference"]["what"] == "resume"


GONE = "not in the record"


@pytest.mark.parametrize(
    "forged",
    [{"learning_rate": 0.5}, {"betas": [0.5, 0.25, "--limit=9"], "limit": 7}, {"limit": GONE}],
    ids=["a value of nothing", "a value that holds an option", "a value taken away"],
)
def test_a_configuration_that_is_not_the_one_that_ran_is_different(bare, forged):  # noqa: F811
    run = train(bare)
    config = json.loads((run / "config.json").read_text()) | forged
    kept = {name: value for name, value in config.items() if value != GONE}
    (run / "config.json").write_text(json.dumps(kept))
    code, verdict, said = verify(bare)
    assert (code, verdict["verdict"]) == (1, "different")
    assert verdict["first_difference"]["where"] == "config"
    assert "the record's numbers were changed" in said


def test_a_result_edited_after_it_was_verified_has_no_badge(bare):  # noqa: F811
    run = train(bare)
    assert verify(bare)[1]["verdict"] == "identical"
    assert "✓ identical" in bare.lab("runs", check=True).stdout
    edit(run / "result.json", test_loss=0.9999)
    assert "identical" not in bare.lab("runs", check=True).stdout


def test_an_accuracy_that_calls_itself_a_time_is_different(bare):  # noqa: F811
    run = train(bare)
    edit(run / "result.json", test_accuracy_in_seconds=0.9999)
    assert verify(bare)[1]["verdict"] == "different"


DEEP = "[" * 3000 + "]" * 3000


def test_odd_verdicts_stop_no_command(repository):
    odd = ["null", "[]", "{}", r'"\\1"', DEEP]
    for number, verdict in enumerate(odd):
        run = make_record(repository.root / "runs", number)
        card = repository.root / "reports" / f"{number:02}_odd" / "run"
        shutil.copytree(run, card)
        (card.parent / "README.md").write_text("# A\n\n**Verified** x")
        for folder in (run, card):
            (folder / "verification.json").write_text(f'{{"verdict": {verdict}, "when": "9"}}')
    for command in (["runs"], ["logbook"], ["check"], ["report", "--readme"]):
        done = repository.lab(*command)
        assert "Traceback" not in done.stderr, command
    readme = (repository.root / "README.md").read_text("utf-8")
    assert all(f"`{run.name}`" in readme for run in repository.runs())


def test_a_card_s_time_without_a_verdict_stops_no_list(repository):
    run = make_record(repository.root / "runs", 1)
    card = repository.root / "reports" / "01_baseline" / "run"
    shutil.copytree(run, card)
    (card / "verification.json").write_text('{"when": "9"}')
    assert run.name in repository.lab("runs", check=True).stdout


def test_a_report_shows_no_verdict_that_its_card_has_lost(repository):
    card = repository.root / "reports" / "01_baseline" / "run"
    shutil.copytree(make_record(repository.root / "runs", 1), card)
    result = json.loads((card / "result.json").read_text())
    said = {"verdict": "identical", "when": "9", "result": result}
    (card / "verification.json").write_text(json.dumps(said))
    page = card.parent / "README.md"
    page.write_text("# A\n\n**Verified** not yet\n")
    repository.lab("report", "--readme", check=True)
    assert "**Verified** identical\n" in page.read_text()
    edit(card / "result.json", test_accuracy=1.0)
    repository.git("add", "reports")
    assert "it was verified since" in repository.lab("check").stdout
    repository.lab("report", "--readme", check=True)
    assert "**Verified** not yet\n" in page.read_text()


def test_a_file_nested_without_end_stops_no_list(repository):
    runs = repository.root / "runs"
    whole = make_record(runs, 1)
    for number, name in enumerate(("config", "code", "result", "data"), 2):
        (make_record(runs, number) / f"{name}.json").write_text(f'{{"run": {DEEP}}}')
    (make_record(runs, 6, finished=False) / "metrics.jsonl").write_text(f'{{"run": {DEEP}}}')
    repository.lab("logbook", check=True)
    assert whole.name in repository.lab("runs", check=True).stdout


def test_a_value_cannot_write_lines_of_its_own_into_the_table(repository):
    runs = repository.root / "runs"
    make_record(runs, 1)
    make_record(runs, 2, note="x\x1b[2J\n20270102-000000-digits-cnn-s1-bbbb  finished  0.9999")
    said = repository.lab("runs", check=True).stdout
    assert "\x1b" not in said
    assert len(said.splitlines()) == 3


def test_notebooks_with_odd_metadata_are_named_and_shown(repository):
    repository.lab("setup")
    odd = ["python3", ["python3"], 3, {"language": 3}]
    for number, kernelspec in enumerate(odd, 2):
        nb = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernelspec}}
        path = repository.root / "notebooks" / f"{number:02}_odd.ipynb"
        path.write_text(json.dumps(nb | {"cells": []}))
    repository.git("add", "notebooks")
    repository.git("diff", "--cached")
    for command in (["sync"], ["check"], ["guard", "--staged"], ["guard", "--all"]):
        done = repository.lab(*command)
        assert "Traceback" not in done.stderr
        assert all(f"{number:02}_odd" in done.stdout for number in range(2, 6)), command


def test_a_report_of_other_code_than_is_checked_out_says_so(bare, card):  # noqa: F811
    said = bare.lab("verify", "reports/02_theirs", check=True).stdout
    assert "git restore reports (delete run/verification.json if it is new)" in said
    assert "is another" not in said
    with (bare.root / "train.py").open("a") as script:
        script.write("# changed after the report\n")
    said = bare.lab("verify", "reports/02_theirs", check=True).stdout
    assert "identical" in said
    assert "the code checked out here is different" in said


def test_a_record_with_conflict_markers_makes_no_row_of_the_table(repository):
    run = make_record(repository.root / "runs", 1)
    card = repository.root / "reports" / "01_baseline" / "run"
    shutil.copytree(run, card)
    readme = (repository.root / "README.md").read_bytes()
    text = (card / "result.json").read_text()
    (card / "result.json").write_text(f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> theirs\n")
    done = repository.lab("report", "--readme")
    assert done.returncode == 2
    assert "lab report 01_baseline writes it again" in done.stderr
    assert (repository.root / "README.md").read_bytes() == readme
    assert repository.lab("check").returncode == 0  # nobody's commit waits for it
