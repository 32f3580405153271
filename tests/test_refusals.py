"""What cannot be done is said in one line with the remedy, and nothing is written."""

import json
import shutil

import numpy as np
import pytest
from conftest import Project
from made_records import make_record
from notebook_pairs import lab


def refused(project, *arguments, cwd=None):
    """Run `lab`, which must refuse; return the line that says why, the last."""
    done = lab(project, *arguments, cwd=cwd)
    assert done.returncode == 2, done
    *_, line = done.stderr.splitlines()
    assert line.startswith("lab: ")
    return line


@pytest.fixture
def record(repository):
    """A finished record."""
    return make_record(repository.root / "runs", 1)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--tolerance", "-1", "--tolerance -1.0 is out of range; use 0 or more"),
        ("--tolerance", "nan", "--tolerance nan is out of range"),
        ("--epochs", "0", "--epochs 0 is out of range; use 1 or more"),
    ],
)
def test_verify_refuses_a_number_out_of_range(repository, record, option, value, words):
    assert words in refused(repository, "verify", "latest", f"{option}={value}")
    assert not (record / "verification.json").exists()


def test_verify_refuses_epochs_of_which_the_record_has_no_rows(repository, record):
    (record / "metrics.jsonl").write_text("")
    said = refused(repository, "verify", "latest", "--epochs", "1")
    assert "--epochs 1: the record has no rows of these" in said


def test_verify_refuses_a_record_of_which_a_file_is_gone_or_damaged(repository, record):
    np.savez_compressed(record / "predictions.npz", labels=np.arange(1000))
    whole = (record / "predictions.npz").read_bytes()
    start = whole.index(b"labels.npy") + len("labels.npy") + 20  # of what is compressed
    for damage in (b"PK\x03\x04 and then the disk was full", b"",
                   whole[:start] + b"\xff" * 9 + whole[start + 9 :]):  # fmt: skip
        (record / "predictions.npz").write_bytes(damage)
        said = refused(repository, "verify", "latest")
        assert "predictions.npz is damaged" in said
        assert "restore it from a backup" in said
    (record / "predictions.npz").unlink()
    for name in ("environment.json", "result.json"):
        kept = (record / name).read_bytes()
        (record / name).write_text("{")
        assert "is damaged: a file of it cannot be read" in refused(repository, "verify", "latest")
        (record / name).write_bytes(kept)
    (record / "code.patch").unlink()
    assert "has no code.patch; verify the run where it was made" in refused(
        repository, "verify", "latest"
    )


def test_a_beginning_that_two_runs_share_names_neither(repository, record):
    make_record(record.parent, 2)
    assert "2 runs begin with '2026'; type more of the id" in refused(
        repository, "compare", "2026", "latest"
    )


def test_an_empty_name_is_that_of_no_run(repository, record):
    assert "no run ''" in refused(repository, "verify", "")
    (repository.root / "reports" / "01_baseline").mkdir(parents=True)
    record.rename(repository.root / "reports" / "01_baseline" / "run")
    assert "no run ''" in refused(repository, "verify", "")


def test_a_readme_without_its_marks_is_not_rewritten(repository):
    readme = repository.root / "README.md"
    readme.write_text(readme.read_text().replace("<!-- results -->", ""))
    before = readme.read_bytes()
    said = refused(repository, "report", "--readme")
    assert "README.md lacks the lines <!-- results --> and <!-- /results -->; put them back" in said
    assert readme.read_bytes() == before
    assert lab(repository, "check").returncode == 0


def test_an_undo_without_a_sync_says_so(repository):
    assert "there is no sync to undo" in refused(repository, "sync", "--undo")


def test_a_folder_that_lost_its_package_is_named(repository, tmp_path):
    broken = tmp_path / "broken"
    (broken / "src").mkdir(parents=True)
    for name in ("train.py", "environment.yml"):
        shutil.copy(repository.root / name, broken / name)
    made = lab(repository, "doctor", cwd=broken)
    assert f"no package with a lab folder under {broken / 'src'}; restore it" in made.stdout


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ({"manager": "pip", "editable": True}, "numpy was installed from a folder"),
        ({"manager": "conda"}, "the record has no address of numpy; it was built here"),
    ],
)
def test_an_environment_that_cannot_be_fetched_again_is_refused(
    repository, record, tmp_path, monkeypatch, package, words
):
    conda = tmp_path / "bin" / "conda"
    conda.parent.mkdir()
    conda.write_text("#!/bin/sh\nexit 3\n")
    conda.chmod(0o755)
    monkeypatch.setenv("PATH", str(conda.parent), prepend=":")
    own = {"name": repository.package, "version": "0.1", "editable": True}  # comes with the code
    listed = [own, {"name": "numpy", "version": "2.4.0"} | package]
    environment = json.loads((record / "environment.json").read_text()) | {"packages": listed}
    (record / "environment.json").write_text(json.dumps(environment))
    folder = tmp_path / "restored"
    assert words in refused(repository, "verify", "latest", "--restore", folder)
    assert not folder.exists()


def test_an_environment_rebuilt_for_another_record_is_not_used(repository, record, tmp_path):
    (tmp_path / "lab-rebuilt.json").write_text('["3.11", []]')
    assert "holds something else" in refused(repository, "verify", "latest", "--restore", tmp_path)


def test_a_script_called_train_py_makes_no_project(repository, record):
    (repository.root / "scripts").mkdir()
    (repository.root / "scripts" / "train.py").touch()
    assert record.name in lab(repository, "runs", cwd=repository.root / "scripts").stdout
    assert "is not inside a project" in refused(repository, "runs", cwd="/")


def test_an_environment_of_a_python_that_is_not_here_is_refused(repository, record, tmp_path):
    environment = json.loads((record / "environment.json").read_text()) | {"python": "3.2.1"}
    (record / "environment.json").write_text(json.dumps(environment))
    said = refused(repository, "verify", "latest", "--restore", tmp_path / "restored")
    assert "the record was made with Python 3.2.1; install Python 3.2" in said


def test_figures_of_a_run_without_predictions_say_what_is_missing(repository, record):
    records = repository.module("lab.records")
    with pytest.raises(records.LabError, match=r"has no predictions.npz; is the run finished\?"):
        _ = records.Record(record).predictions


def test_a_compare_without_the_commits_says_that_no_diff_can_be_made(repository: Project, record):
    other = make_record(record.parent, 2)
    code = json.loads((other / "code.json").read_text()) | {"base": "1" * 40, "tree": "x"}
    (other / "code.json").write_text(json.dumps(code))
    done = lab(repository, "compare", record.name, other.name)
    assert done.returncode == 1
    assert "commit 000000000000 -> 000000000000, with patches; no diff can be made" in done.stdout
