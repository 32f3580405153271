"""`lab runs` and `lab compare` over records, whole, half-written, damaged and foreign."""

import json
import shutil

import pytest
from made_records import make_record
from notebook_pairs import lab


@pytest.fixture
def runs(repository):
    """Give the runs of two models over three seeds, an unfinished one and rubbish."""
    folder = repository.root / "runs"
    for number in range(6):
        verdict = {0: "identical", 1: "different", 2: "within tolerance"}.get(number)
        model = ("simple_cnn", "resnet18")[number // 3]
        make_record(folder, number, seed=number % 3, model=model, verdict=verdict)
    make_record(folder, 6, finished=False)
    (folder / "20260103-foreign").mkdir()
    (folder / "20260104-half").mkdir()
    (folder / "20260104-half" / "config.json").write_text('{"dataset": "dig')
    (folder / "20260105-list").mkdir()
    (folder / "20260105-list" / "config.json").write_text("[1, 2]")
    (folder / "note.txt").write_text("a file among the runs")
    return folder


def rows(repository, *options):
    return json.loads(repository.lab("runs", "--json", *options, check=True).stdout)


def test_a_half_written_a_damaged_and_a_foreign_folder_are_named(repository, runs):
    (runs / ".submitted").mkdir()  # by `lab submit`
    done = repository.lab("runs", check=True)
    assert len(list(runs.iterdir())) == 12
    assert "20260103-foreign: it is no record" in done.stderr
    assert ".submitted" not in done.stderr
    states = {row["run"]: row["state"] for row in rows(repository)}
    assert states["20260104-half"] == states["20260105-list"] == "damaged"
    assert sorted(states.values()) == ["damaged"] * 2 + ["finished"] * 6 + ["unfinished"]


def test_a_torn_last_line_is_dropped(repository, runs):
    last = min(runs.glob("*-s6-*")) / "metrics.jsonl"
    last.write_text(last.read_text() + '3\n{"epoch": 9, "train_lo')  # and a line of no record
    unfinished = next(row for row in rows(repository) if row["state"] == "unfinished")
    assert unfinished["epoch"] == 2


@pytest.mark.slow
def test_every_file_of_a_record_may_be_damaged(repository, runs):
    folder = min(runs.glob("*-s0-*"))
    for name in ("result.json", "verification.json", "metrics.jsonl", "config.json", "code.json"):
        for content in (b"", b"{", b"\xff\xfe\x00", b"null", b'"text"', b"[]"):
            kept = (folder / name).read_bytes()
            (folder / name).write_bytes(content)
            done = repository.lab("runs", "--json")
            assert done.returncode == 0, (name, content, done.stderr)
            (folder / name).write_bytes(kept)


def test_the_table_shows_the_last_verdict(repository, runs):
    said = repository.lab("runs").stdout
    assert all(badge in said for badge in ("✓ identical", "✗ different", "≈ within"))
    assert len(rows(repository)) == len(list(runs.glob("2026*"))) - 1


def test_runs_are_filtered_and_sorted_by_config_and_metric(repository, runs):
    assert {row["model"] for row in rows(repository, "--where", "model=resnet18")} == {"resnet18"}
    chosen = rows(repository, "--where", "test_accuracy>=0.93", "--where", "seed<2")
    assert chosen
    assert all(row["test_accuracy"] >= 0.93 and row["seed"] < 2 for row in chosen)
    losses = [row.get("test_loss") for row in rows(repository, "--sort=-test_loss")]
    known = [loss for loss in losses if loss is not None]
    assert known == sorted(known, reverse=True)
    assert losses[len(known) :] == [None] * (len(losses) - len(known))
    lowest = rows(repository, "--sort", "validation_loss")[0]["validation_loss"]
    assert lowest == min(row.get("validation_loss", 9) for row in rows(repository))
    for number, odd in enumerate((32, [32, 64], "wide")):  # the type of a field was changed
        (path,) = list(runs.glob("*resnet18*"))[number].glob("config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"widths": odd}))
    shown = [row.get("widths") for row in rows(repository, "--sort", "widths")]
    assert [width for width in shown if width is not None] == [32, [32, 64], "wide"]
    for bad in (("--sort", "accuracy"), ("--where", "accuracy=1"), ("--where", "nonsense")):
        done = repository.lab("runs", *bad)
        assert done.returncode == 2
        assert "lab: " in done.stderr


def test_a_seed_that_diverged_leaves_no_mean_of_those_that_did_not(repository, runs):
    path = next(runs.glob("*resnet18*")) / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test_loss": None}))  # it was NaN
    one = next(group for group in rows(repository, "--group") if group["model"] == "resnet18")
    assert one["seeds"] == 3
    assert "test_loss" not in one
    assert one["test_accuracy_sd"] is not None


@pytest.mark.usefixtures("runs")
def test_groups_give_mean_deviation_and_number_of_seeds(repository):
    groups = rows(repository, "--group")
    assert [group["seeds"] for group in groups] == [3, 3]
    values = [row["test_accuracy"] for row in rows(repository, "--where", "model=resnet18")]
    group = next(group for group in groups if group["model"] == "resnet18")
    mean = sum(values) / 3
    assert group["test_accuracy"] == pytest.approx(mean)
    deviation = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
    assert group["test_accuracy_sd"] == pytest.approx(deviation)
    assert "seed" not in group


def test_nothing_differs_from_itself_and_differences_come_by_cause(repository, runs):
    one, *_ = sorted(runs.glob("*-s0-*"))
    twin = runs / "20260201-000000-digits-simple_cnn-s0-aaaa"
    shutil.copytree(one, twin)
    data = json.loads((twin / "data.json").read_text())
    (twin / "data.json").write_text(json.dumps(data | {"data_dir": "moved"}))
    done = repository.lab("compare", one.name, twin.name)
    assert done.returncode == 0, done.stdout
    head = repository.git("rev-parse", "HEAD").stdout.strip()
    empty = {"base": head, "commit": head, "tree": "a"}
    (one / "code.json").write_text(json.dumps(empty))
    (twin / "code.json").write_text(json.dumps(empty | {"tree": "b"}))
    (repository.root / "new.py").write_text("learning = 'fast'\n")
    repository.git("add", "-A", "new.py")
    patch = repository.git("diff", "--cached", "--binary").stdout
    (twin / "code.patch").write_text(patch)
    for name, change in {
        "config.json": {"batch_size": 32},
        "environment.json": {"packages": [{"name": "numpy", "version": "2", "manager": "pip"}]},
        "data.json": {"fingerprint": "0" * 64, "sizes": [9, 1]},
        "result.json": {"test_loss": 0.5},
    }.items():
        path = twin / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    done = repository.lab("compare", one.name, twin.name)
    assert done.returncode == 1
    places = [done.stdout.index(f"\n{name}:") for name in
              ("config", "code", "environment", "data", "metrics")]  # fmt: skip
    assert places == sorted(places)
    assert "+learning = 'fast'" in done.stdout
    assert "packages: numpy: none -> 2" in done.stdout
    assert f"{'f' * 16}… " in done.stdout
    assert "[9, 1]" in done.stdout
    assert repository.lab("compare", one.name, "19990101").returncode == 2


def test_code_that_no_commit_holds_is_not_called_the_same(repository, runs):
    one, other = sorted(runs.glob("*-s0-*"))
    for folder in (one, other):
        content = json.loads((folder / "code.json").read_text()) | {"base": None, "tree": None}
        (folder / "code.json").write_text(json.dumps(content))
    done = repository.lab("compare", one.name, other.name)
    assert done.returncode == 1
    assert (
        f"code: \n  not known, as there was no commit yet: {one.name}, {other.name}" in done.stdout
    )


def test_of_a_seed_that_ran_more_than_once_the_newest_counts(repository, runs):
    before = next(group for group in rows(repository, "--group") if group["model"] == "resnet18")
    again = make_record(runs, 7, seed=0, model="resnet18")
    make_record(runs, 8, seed=9, model="wide")
    groups = {group["model"]: group for group in rows(repository, "--group")}
    assert groups["resnet18"]["seeds"] == before["seeds"] == 3
    values = {row["seed"]: row["test_accuracy"] for row in rows(repository)
              if row.get("model") == "resnet18"}  # fmt: skip
    assert values[0] == json.loads((again / "result.json").read_text())["test_accuracy"]
    assert groups["resnet18"]["test_accuracy"] == pytest.approx(sum(values.values()) / 3)
    assert groups["wide"]["test_accuracy_sd"] is None


def test_a_metric_of_ones_own_is_averaged_and_splits_no_group(repository, runs):
    for number, path in enumerate(sorted(runs.glob("*resnet18*"))):
        result = json.loads((path / "result.json").read_text())
        (path / "result.json").write_text(json.dumps({**result, "test_f1": 0.5 + number / 10}))
    group = next(group for group in rows(repository, "--group") if group["model"] == "resnet18")
    assert group["seeds"] == 3
    assert group["test_f1"] == pytest.approx(0.6)
    assert "0.6 ± 0.1" in repository.lab("runs", "--group", check=True).stdout


@pytest.mark.slow
def test_an_epochs_metric_is_asked_of_every_run_also_beside_an_unfinished_one(repository):
    folder = repository.root / "runs"
    for number in range(3):
        make_record(folder, number, finished=number < 2)
    for options in (("--where", "validation_accuracy>0"), ("--sort", "validation_accuracy")):
        shown = repository.lab("runs", *options, check=True).stdout
        assert shown.count("finished") == 3
        assert all(f"{row['validation_accuracy']:.4g}" in shown for row in rows(repository))


@pytest.mark.slow
def test_fields_and_results_that_end_in_sd_are_what_they_are_called(repository):
    folder = repository.root / "runs"
    for number in range(2):
        given = {"noise_sd": 0.1, "init": "normal", "init_sd": 0.02}
        result = make_record(folder, number, **given) / "result.json"
        more = {"test_mae": 1.0 + number, "test_mae_sd": 0.25}
        result.write_text(json.dumps(json.loads(result.read_text()) | more))
    assert "0.25" in repository.lab("runs", check=True).stdout
    (group,) = rows(repository, "--group")
    assert (group["test_mae"], group["noise_sd"]) == (1.5, 0.1)
    assert group["test_mae_sd"] == pytest.approx(0.5**0.5)  # over the seeds
    assert "1.5 ± 0.71" in repository.lab("runs", "--group", check=True).stdout


def test_a_value_written_as_0_or_0_0_is_one_value(repository):
    for number, value in enumerate((0, 0.0, 0.5)):
        make_record(repository.root / "runs", number, dropout=value)
    assert sorted(group["seeds"] for group in rows(repository, "--group")) == [1, 2]


def test_a_folder_of_ones_own_is_not_the_latest_run(repository):
    run = make_record(repository.root / "runs", 1)
    (run.parent / "2027_old").mkdir()
    assert run.name in repository.lab("compare", "latest", "latest").stdout


def test_runs_of_different_code_are_different_groups(repository, runs):
    for number, folder in enumerate(sorted(runs.glob("*resnet18*"))):
        content = json.loads((folder / "code.json").read_text())
        content["sources"] = ("a" if number else "b") * 64
        (folder / "code.json").write_text(json.dumps(content))
    groups = [group for group in rows(repository, "--group") if group["model"] == "resnet18"]
    assert sorted((group["code"], group["seeds"]) for group in groups) == [
        ("a" * 8, 2),
        ("b" * 8, 1),
    ]
    assert "aaaaaaaa" in repository.lab("runs", "--group", check=True).stdout


def test_a_verdict_on_a_card_is_one_on_its_run(repository, runs):
    run = min(runs.glob("*-s1-*"))
    card = repository.root / "reports" / "01_baseline" / "run"
    shutil.copytree(run, card)
    verdict = {"run": run.name, "verdict": "identical", "when": "2026-11-25T00:00:00+00:00"}
    (card / "verification.json").write_text(json.dumps(verdict))
    (run / "verification.json").unlink()
    shown = {row["run"]: row["verdict"] for row in rows(repository)}
    assert shown[run.name] == "identical"
    newer = {"verdict": "different", "when": "2026-11-26T00:00:00+00:00"}
    (run / "verification.json").write_text(json.dumps(newer))
    shown = {row["run"]: row["verdict"] for row in rows(repository)}
    assert shown[run.name] == "different"


def test_compare_names_prose_and_shows_code(repository):
    def record(number):
        folder = make_record(repository.root / "runs", number, seed=number)
        code = (
            "import json, sys; from pathlib import Path\n"
            f"from {repository.package}.lab import code\n"
            f"folder = Path({str(folder)!r})\n"
            "described, patch = code.capture(Path.cwd(), [])\n"
            "(folder / 'code.json').write_text(json.dumps({'run': folder.name, **described}))\n"
            "(folder / 'code.patch').write_bytes(patch)\n"
        )
        repository.python("-c", code, check=True)
        return folder.name

    one = record(1)
    with (repository.root / "README.md").open("a") as file:
        file.write("a line of prose\n")
    with (repository.root / "train.py").open("a") as file:
        file.write("# a line of code\n")
    said = repository.lab("compare", one, record(2)).stdout
    assert "+# a line of code" in said
    assert "a line of prose" not in said
    assert "not affecting numbers: README.md" in said


def test_without_runs_it_says_how_to_make_one(repository):
    done = repository.lab("runs", "--where", "seed=1", check=True)
    assert "no runs yet; python train.py makes one" in done.stdout
    assert rows(repository) == []


@pytest.mark.usefixtures("runs")
def test_a_number_is_compared_with_a_number(repository):
    done = repository.lab("runs", "--where", "test_accuracy>abc")
    assert done.returncode == 2
    assert "test_accuracy needs a number" in done.stderr


def test_runs_that_differ_in_their_numbers_alone_are_not_the_same(repository):
    one = make_record(repository.root / "runs", 1)
    twin = one.with_name("20260201-000000-digits-simple_cnn-s1-aaaa")
    shutil.copytree(one, twin)
    first, second, *more = (twin / "metrics.jsonl").read_text().splitlines()
    second = second.replace('"train_loss": ', '"train_loss": 1')
    (twin / "metrics.jsonl").write_text("\n".join([first, second, *more]))
    done = lab(repository, "compare", one.name, twin.name)
    assert done.returncode == 1
    assert "the first epoch that differs is 2" in done.stdout
    shutil.copy(one / "metrics.jsonl", twin)
    (twin / "result.json").write_text('{"test_loss": 9}')
    done = lab(repository, "compare", one.name, twin.name)
    assert done.returncode == 1
    assert "the first epoch" not in done.stdout


@pytest.mark.usefixtures("runs")
def test_the_table_has_what_differs_and_what_was_asked_for(repository):
    head, *lines = lab(repository, "runs", "--where", "split_seed=0").stdout.splitlines()
    assert {"model", "seed", "split_seed"} <= set(head.split())
    assert not {"batch_size", "path", "best_epoch", "weights_sha256"} & set(head.split())
    assert "None" not in " ".join(lines)


def test_conditions_on_switches_and_on_what_is_not_there_are_understood(repository):
    folder = repository.root / "runs"
    make_record(folder, 1)
    make_record(folder, 2, deterministic=False, warmup=None)
    make_record(folder, 3, warmup=5)

    def seeds(condition):
        found = lab(repository, "runs", "--json", "--where", condition)
        return [row["seed"] for row in json.loads(found.stdout)]

    assert seeds("deterministic=true") == [1, 3]
    assert seeds("deterministic=False") == [2]
    assert seeds("warmup=none") == [1, 2]
    assert seeds("warmup!=none") == [3]
    assert seeds("warmup=") == [1, 2]
    assert seeds("seed<=2") == [1, 2]
    assert seeds("seed>2") == [3]
