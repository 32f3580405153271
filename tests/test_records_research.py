"""Research that is not the template's own: other metrics, other files, other rhythms."""

import json
import os
import signal
import textwrap

import numpy as np
import pytest
from made_records import make_record
from test_verify_attacks import verify
from test_verify_causes import TOY, bare, interpreter  # noqa: F401 (fixtures)

pytestmark = pytest.mark.slow

ROW = "record.append(dict(epoch=epoch + 1, train_loss=loss, seconds=0.0))"
FINISH = "record.finish(dict("


def toy(project, *changes, check=True):
    """Run a toy with changes to its text; return its record, if there is one."""
    text = TOY.format(package=project.package, first="import time", loss="1.0", weights="loss")
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (project.root / "train.py").write_text(text, encoding="utf-8")
    project.done = project.python("train.py", check=check)
    return project.runs()[-1]


def test_times_and_rates_are_no_results(repository):
    row = ROW.replace("seconds=0.0", "seconds=0.0, images_per_second=time.time()")
    finish = f"{FINISH}inference_seconds=time.time(), "
    for _ in range(2):
        toy(repository, (ROW, row), (FINISH, finish))
    assert verify(repository)[1]["verdict"] == "identical"
    first, second = (run.name for run in repository.runs())
    assert "metrics: the same" in repository.lab("compare", first, second).stdout


def test_a_row_every_other_epoch_is_compared_by_its_epoch(bare):  # noqa: F811
    run = toy(
        bare,
        (
            '"--stop-after-epochs", type=int, default=2',
            '"--stop-after-epochs", type=int, default=6',
        ),
        ("given.stop_after_epochs == 2", "given.stop_after_epochs == 6"),
        ("epochs=2, seed", "epochs=6, seed"),
        ("range(given.stop_after_epochs)", "range(1, given.stop_after_epochs, 2)"),
    )
    said = verify(bare, "--epochs", "5")[1]["verdict"]
    assert said == "the first 5 epochs identical"
    rows = run / "metrics.jsonl"
    rows.write_text(
        rows.read_text().replace('"epoch": 4, "train_loss": 1.0', '"epoch": 4, "train_loss": 2.0')
    )
    assert verify(bare)[1]["first_difference"]["where"] == "epoch 4"


def test_a_run_that_goes_on_keeps_the_rows_of_complete_epochs_alone(repository):
    run = make_record(repository.root / "runs", 1, epochs=4)
    rows = run / "metrics.jsonl"
    rows.write_text("".join(f'{{"epoch": {epoch}}}\n' for epoch in (5, 10, 15)))
    code = f"""
        from pathlib import Path
        from {repository.package}.lab.records import Record
        Record(Path({str(run)!r})).go_on(Path.cwd(), 12, 3)
    """
    repository.python("-c", textwrap.dedent(code), check=True)
    assert [json.loads(line)["epoch"] for line in rows.read_text().splitlines()] == [5, 10]


def test_numpys_numbers_in_a_result_are_numbers(repository):
    given = "test_dice=np.float32(0.5), by_class=np.arange(2), test_depth=np.int64(3), "
    run = toy(repository, ("import time", "import numpy as np"), (FINISH, FINISH + given))
    result = json.loads((run / "result.json").read_text())
    assert (result["test_dice"], result["by_class"], result["test_depth"]) == (0.5, [0, 1], 3)


def test_an_array_that_could_not_be_read_again_is_refused_when_it_is_written(repository):
    ragged = "arrays = dict(ragged=np.array([[1], [1, 2]], dtype=object))"
    run = toy(
        repository,
        ("import time", f"import numpy as np\n{ragged}"),
        ("weights_sha256=str(loss)))", "weights_sha256=str(loss)), **arrays)"),
        check=False,
    )
    assert "Object arrays" in repository.done.stderr
    assert not (run / "result.json").exists()
    assert not (run / "predictions.npz").exists()


@pytest.fixture
def regressions(repository):
    """Give runs whose metric is a mean squared error, one of them reported."""
    for seed in range(3):
        run = make_record(repository.root / "runs", seed, seed=seed)
        result = json.loads((run / "result.json").read_text())
        accuracy = result.pop("test_accuracy")
        (run / "result.json").write_text(json.dumps(result | {"test_mse": 3000 + 200 * accuracy}))
    card = repository.root / "reports" / "02_mse" / "run"
    card.parent.mkdir(parents=True)
    run.rename(card)
    (card.parent / "README.md").write_text("# Does it predict?\n")
    return repository


def test_a_metric_of_ones_own_is_in_the_tables(regressions):
    said = regressions.lab("runs", "--group", check=True).stdout.splitlines()
    assert "test_mse" in said[0]
    assert "±" in said[1]
    assert "test_mse" in regressions.lab("runs", "--where", "seed=0", check=True).stdout
    regressions.lab("report", "--readme", check=True)
    (row,) = (
        line
        for line in (regressions.root / "README.md").read_text("utf-8").splitlines()
        if line.startswith("| [Does it predict?]")
    )
    assert "| mse 3195 |" in row


WEIGHTS = """\
        weights = torch.load(self.options.data_dir / "backbone.pt", weights_only=True)
        self.model.load_state_dict(weights)
"""


@pytest.mark.torch
def test_weights_beside_the_data_are_found_by_a_resume_and_by_a_verification(repository, tmp_path):
    script = repository.root / "train.py"
    text = script.read_text(encoding="utf-8")
    before = "        self.parallel = world.wrap("
    script.write_text(text.replace(before, WEIGHTS + before, 1), encoding="utf-8")
    data = repository.root / "src" / repository.package / "data.py"
    text = data.read_text(encoding="utf-8")
    files = 'list("0123456789"), [path, options.data_dir / "backbone.pt"], path.parent'
    old = 'list("0123456789"), [path], path.parent'
    assert old in text
    data.write_text(text.replace(old, files), encoding="utf-8")
    mine = tmp_path / "mine"
    mine.mkdir()
    made = (
        f"import torch; from {repository.package}.models import build_model;"
        f"from {repository.package}.config import Config; model = build_model(Config(), (1, 8, 8), 10);"
        f"torch.save(model.state_dict(), {str(mine / 'backbone.pt')!r})"
    )
    repository.python("-c", made, check=True)
    repository.train("--data-dir", mine, "--epochs", "2", "--stop-after-epochs", "1", check=True)
    repository.train("--resume", "latest", check=True)
    code, verdict, said = verify(repository)
    assert (code, verdict["verdict"]) == (0, "identical"), said
    repository.python("-c", made.replace("torch;", "torch; torch.manual_seed(1);", 1), check=True)
    code, verdict, said = verify(repository)
    assert (code, list(verdict["causes"])) == (1, ["data"]), said


def test_two_runs_that_fail_alike_are_not_said_to_agree(bare):  # noqa: F811
    weights = bare.root / "weights" / "backbone.pt"  # git ignores it
    weights.parent.mkdir()
    weights.write_text("1.0")
    toy(bare, ("loss = 1.0", 'loss = float((ROOT / "weights" / "backbone.pt").read_text())'))
    code, verdict, _ = verify(bare)
    assert (code, verdict["verdict"]) == (1, "different")
    assert "put it into --data-dir" in verdict["causes"]["unknown"][0]


def logbook_of(project):
    """Return what the logbook's script reads."""
    project.lab("logbook", check=True)
    text = (project.root / "runs" / "logbook.html").read_text("utf-8")
    line = next(line for line in text.splitlines() if '"runs": [' in line)
    whole = line[line.index("{") : line.rindex("}") + 1]
    return json.loads(whole, parse_constant=pytest.fail)["runs"]  # NaN is none of JSON's words


def test_a_class_without_test_images_leaves_the_logbook_readable(repository):
    given = "test_recall=[float('nan'), 0.5], by_class=np.array([np.inf, 1.0]), "
    run = toy(repository, ("import time", "import numpy as np"), (FINISH, FINISH + given))
    older = make_record(repository.root / "runs", 1)
    (older / "metrics.jsonl").write_text('{"epoch": 1, "recall": [NaN, 0.5]}\n')
    json.loads((run / "result.json").read_text(), parse_constant=pytest.fail)
    first, second = logbook_of(repository)
    assert first["curves"]["recall"] == [[None, 0.5]]
    assert second["result"]["test_recall"] == [None, 0.5]


def test_a_metric_that_the_last_row_lacks_has_its_curve(repository):
    run = make_record(repository.root / "runs", 1)
    rows = '{"epoch": 1, "loss": 3.0, "validation_loss": 2.0}\n{"epoch": 2, "loss": 1.0}\n'
    (run / "metrics.jsonl").write_text(rows)
    assert logbook_of(repository)[0]["curves"] == {
        "loss": [3.0, 1.0],
        "validation_loss": [2.0, None],
    }


@pytest.mark.parametrize("every", [2, 4, 10])
def test_a_metric_of_some_epochs_of_a_long_run_has_its_curve(repository, every):
    run = make_record(repository.root / "runs", 1)
    rows = [{"epoch": n, "loss": 1.0} | ({"recall": n / 1e3} if n % every == 1 else {})
            for n in range(1, 1001)]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curve = logbook_of(repository)[0]["curves"]["recall"]
    assert len(curve) < 200
    assert len([value for value in curve if value is not None]) >= 100


def test_asked_for_epochs_of_which_nothing_is_recorded_it_says_so(bare):  # noqa: F811
    toy(
        bare,
        ("epochs=2, seed", "epochs=20, seed"),
        ("epoch=epoch + 1", "epoch=10 * (epoch + 1)"),
    )
    done = bare.lab("verify", "latest", "--epochs", "5")
    assert done.returncode == 2
    assert "--epochs 5" in done.stderr
    assert "ask for more" in done.stderr


def test_a_run_that_begins_anew_has_no_row_twice(repository):
    run = make_record(repository.root / "runs", 1, epochs=4)
    rows = run / "metrics.jsonl"
    code = f"""
        from pathlib import Path
        from {repository.package}.lab.records import Record
        Record(Path({str(run)!r})).go_on(Path.cwd(), 0, int(__import__("sys").argv[1]))
    """
    for step, kept in (("3", [0]), ("0", [])):
        rows.write_text("".join(f'{{"epoch": {epoch}}}\n' for epoch in (0, 1)))
        repository.python("-c", textwrap.dedent(code), step, check=True)
        assert [json.loads(line)["epoch"] for line in rows.read_text().splitlines()] == kept


def test_runs_whose_rows_name_no_epoch_are_compared(repository):
    names = [make_record(repository.root / "runs", number) for number in (1, 2)]
    for number, run in enumerate(names):
        (run / "metrics.jsonl").write_text(f'{{"loss": {number}}}\n')
    done = repository.lab("compare", *(run.name for run in names))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_what_pip_cannot_find_is_said_in_its_words(repository, tmp_path):
    run = toy(repository)
    surroundings = json.loads((run / "environment.json").read_text())
    small = ("certifi", "packaging", "six", "tqdm", "urllib3", "zipp")
    known = [one for one in surroundings["packages"] if one["name"] in small]
    assert len(known) > 3  # pip says much of each, after which its error must still be seen
    missing = {"name": "idna", "version": "999.1", "manager": "pip"}
    changed = surroundings | {"packages": [*known, missing]}
    (run / "environment.json").write_text(json.dumps(changed))
    done = repository.lab("verify", "latest", "--restore", tmp_path / "rebuilt")
    assert done.returncode == 2
    assert "No matching distribution found for idna==999.1" in done.stderr


def test_a_tolerance_holds_for_each_number_of_a_list(bare):  # noqa: F811
    noise = "recall=[0.5, 0.5 + 1e-6 * (time.time_ns() % 997)], "
    toy(bare, (FINISH, FINISH + noise))
    assert verify(bare)[1]["verdict"] == "different"
    assert verify(bare, "--tolerance", "0.01")[1]["verdict"] == "within tolerance"
    assert verify(bare, "--tolerance", "1e-9")[1]["verdict"] == "different"


def test_a_loss_that_diverged_is_no_number_in_its_row(repository):
    run = make_record(repository.root / "runs", 1, epochs=0)
    record = repository.module("lab.records").Record(run)
    record.append({"epoch": 1, "train_loss": float("nan"), "recall": np.float32(0.5)})
    row = json.loads((run / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert row == {"epoch": 1, "train_loss": None, "recall": 0.5}


def test_the_headline_of_a_report_is_no_time_and_no_loss(repository):
    run = make_record(repository.root / "runs", 1)
    result = {"test_loss": 0.5, "test_seconds": 1.5, "test_mse": 3.25, "test_mae": 1.0}
    (run / "result.json").write_text(json.dumps(result))
    assert repository.module("lab.records").Record(run).headline == ("test mse", "3.25")


def test_data_that_moved_are_looked_for_in_the_project(repository):
    run = make_record(repository.root / "runs", 1)
    (run / "data.json").write_text('{"data_dir": "/nfs/gone"}')
    record = repository.module("lab.records").Record(run)
    assert record.data_folder(repository.root) == repository.root / "data"


def test_a_card_is_read_line_by_line_and_keeps_no_verdict_on_another_run(repository, tmp_path):
    records, card = repository.module("lab.records"), tmp_path / "card"
    first, second = (make_record(repository.root / "runs", number) for number in (1, 2))
    (first / "verification.json").write_text('{"verdict": "identical", "when": "2026"}')
    packages = [{"name": name, "version": "1"} for name in ("numpy", "größe")]
    records.write_json(first / "environment.json", {"threads": 1, "packages": packages})
    records.write_card(records.Record(first), card)
    assert (card / "verification.json").exists()
    lines = (card / "environment.json").read_text("utf-8").splitlines()
    assert '  {"name": "größe", "version": "1"}' in lines
    records.write_card(records.Record(second), card)
    assert not (card / "verification.json").exists()


def test_the_logbook_has_results_and_curves_and_no_times(repository):
    run = make_record(repository.root / "runs", 1)
    (card,) = logbook_of(repository)
    assert card["result"].keys() == {"test_loss", "test_accuracy"}
    assert not {"epoch", "seconds"} & card["curves"].keys()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert card["curves"]["train_loss"] == [round(row["train_loss"], 6) for row in rows]


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_closed_terminal_stops_no_run_that_nohup_began(repository, before):
    theirs = signal.signal(signal.SIGHUP, before)
    try:
        with repository.module("lab.checkpoints").StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received == (0 if before == signal.SIG_IGN else signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, theirs)
