"""Toys instead of training, verified: each difference is explained, and nothing else is touched."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import Project
from test_verify_attacks import verify

pytestmark = pytest.mark.slow

TOY = """
import argparse, importlib.metadata, os, sys
from pathlib import Path
ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "src"))
{first}
from {package}.lab.records import Record, capture
parser = argparse.ArgumentParser()
parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs")
parser.add_argument("--stop-after-epochs", type=int, default=2)
parser.add_argument("--betas", type=float, nargs=2)
parser.add_argument("--limit", default=7)
given, _ = parser.parse_known_args()
config = dict(dataset="toy", model="toy", epochs=2, seed=1, device="cpu", threads=1,
              betas=given.betas or [0.5, 0.25], limit=eval(str(given.limit)))
record = Record.create(ROOT, given.runs_dir, config=config, data=dict(), files=[], data_dir=ROOT,
                       code=capture(ROOT, []), world_size=1)
loss = {loss}
for epoch in range(given.stop_after_epochs):
    record.append(dict(epoch=epoch + 1, train_loss=loss, seconds=0.0))
if given.stop_after_epochs == 2:
    record.finish(dict(test_loss=0.0, epochs=2, seconds=0.0, weights_sha256=str({weights})))
"""  # a run in which one expression is all that matters
VERSION = 'float(importlib.metadata.version("idna")[:3])'


@dataclass
class Bare(Project):
    """A project in a Python that has only numpy: hashing all of torch takes half a minute."""

    interpreter: Path

    @property
    def env(self):
        """Add numpy."""
        here = str(self.root.parent / "site-packages")
        return super().env | {"PYTHONPATH": f"{self.root / 'src'}{os.pathsep}{here}"}

    def python(self, *arguments, **options):
        """Run the Python without packages."""
        return self.run(self.interpreter, *arguments, **options)


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    """Make a virtual environment without packages."""
    folder = tmp_path_factory.mktemp("empty")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


@pytest.fixture
def bare(repository, interpreter):
    """Give a repository with a Python of its own."""
    site = repository.root.parent / "site-packages"
    info = site / "tiny-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: tiny\nVersion: 1.0\n")
    for path in Path(np.__file__).parent.parent.glob("numpy*"):
        if not path.name.endswith("-info"):
            (site / path.name).symlink_to(path)
    return Bare(repository.root, interpreter)


def train(project, first="", loss="1.0", weights="loss", check=True, **options):
    """Run a toy; return its record."""
    text = TOY.format(package=project.package, first=first, loss=loss, weights=weights)
    (project.root / "train.py").write_text(text)
    project.python("train.py", check=check, **options)
    return project.runs()[-1]


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_called_from_a_hook_it_leaves_the_index_of_the_commit_alone(bare):
    train(bare)
    (bare.root / "staged.py").write_text("x = 1\n")
    bare.git("add", "staged.py")
    index = bare.root / ".git" / "index"
    before = index.read_bytes()
    env = {"GIT_INDEX_FILE": str(index), "GIT_DIR": str(bare.root / ".git")}
    assert verify(bare, env=env)[:1] == (0,)
    assert index.read_bytes() == before


@pytest.mark.parametrize("place", ["first", "loss"])
def test_a_run_that_fails_under_other_packages_names_them(bare, tmp_path, place):
    broken = f"1 / (not os.path.exists({str(tmp_path / 'broken')!r}))"
    run = train(bare, **{place: broken})
    path = run / "environment.json"
    edit(path, packages=[{"name": "tiny", "version": "0.1", "manager": "pip"}])
    (tmp_path / "broken").touch()
    code, verdict, said = verify(bare)
    assert (code, verdict["verdict"]) == (1, "different")
    assert "ZeroDivisionError" in verdict["failed"]
    assert "packages: tiny: 0.1 -> 1.0" in said


@pytest.mark.parametrize("crash", ["count == 2", "count == 3"])
def test_code_that_fails_only_sometimes_is_called_non_deterministic(bare, tmp_path, crash):
    counter = f"(Path({str(tmp_path)!r}) / 'count').open('a+')"
    first = f"with {counter} as f: f.write('x'); f.seek(0); count = len(f.read())"
    train(bare, first=first, loss=f"count + 1 / (not ({crash}))")
    code, verdict, said = verify(bare)
    assert (code, verdict["verdict"], verdict["deterministic"]) == (1, "different", False)
    assert "non-deterministic" in said


def test_code_that_fails_each_time_says_so(bare, tmp_path):
    train(bare, first=f"1 / (not os.path.exists({str(tmp_path / 'broken')!r}))")
    (tmp_path / "broken").touch()
    code, verdict, said = verify(bare)
    assert (code, verdict["verdict"], verdict["deterministic"]) == (1, "different", True)
    assert "ZeroDivisionError" in said
    assert list(verdict["causes"]) == ["unknown"]


def test_damaged_arrays_are_named_before_anything_is_run(bare):
    run = train(bare)
    (run / "predictions.npz").write_bytes(b"PK half of it")
    done = bare.lab("verify", "latest")
    assert done.returncode == 2
    assert "predictions.npz is damaged" in done.stderr
    assert "running" not in done.stderr


def test_an_update_of_the_kernel_hides_no_other_cause(bare):
    run = train(bare)
    edit(run / "environment.json", platform="Linux-5.4.0-x86_64-with-glibc2.31")
    edit(run / "result.json", test_loss=0.5)
    code, verdict, said = verify(bare)
    assert (code, verdict["verdict"]) == (1, "different")
    assert "the record's numbers were changed after the run" in said
    assert "platform: platform: Linux-5.4.0" in said


def test_first_epochs_alone_accuse_nobody_of_changing_numbers(bare):
    train(bare, loss="float(os.environ['SCALE'])", env={"SCALE": "1"})
    code, verdict, _ = verify(bare, "--epochs", "1", env={"SCALE": "2"})
    assert (code, verdict["verdict"]) == (1, "different")
    assert list(verdict["causes"]) == ["unknown"]


def test_a_startup_file_that_changes_numbers_is_named(bare, tmp_path):
    train(bare, loss="getattr(os, 'scale', 1.0)")
    (tmp_path / "site-packages" / "sitecustomize.py").write_text("import os\nos.scale = 2.0\n")
    code, verdict, said = verify(bare)
    assert (code, verdict["verdict"]) == (1, "different")
    assert "sitecustomize.py was imported, and the record does not hold it" in said


def test_a_module_from_elsewhere_imported_while_it_ran_is_named_when_it_changed(bare, tmp_path):
    (tmp_path / "lib").mkdir()
    late = tmp_path / "lib" / "late.py"
    late.write_text("SCALE = 1.0\n")
    env = {"PYTHONPATH": f"{bare.env['PYTHONPATH']}{os.pathsep}{late.parent}"}
    run = train(bare, first="import late", env=env)
    (listed,) = json.loads((run / "code.json").read_text())["listed"]
    assert listed["path"] == str(late)
    shutil.rmtree(run)
    train(bare, loss="__import__('late').SCALE", env=env)
    assert verify(bare, env=env)[1]["verdict"] == "identical"
    late.write_text("SCALE = 22.0\n")
    code, verdict, said = verify(bare, env=env)
    assert (code, verdict["verdict"]) == (1, "different")
    assert "late.py (imported from outside the repository) changed since the run" in said


def test_lists_and_none_among_the_values_are_given_again(bare):
    train(bare, loss="config['betas'][1] + (config['limit'] or 100)")
    edit(bare.runs()[-1] / "config.json", limit=None)
    assert verify(bare)[1]["first_difference"]["again"] == 100.25


def test_a_project_reached_through_a_link_is_no_code_from_elsewhere(bare, tmp_path):
    train(bare)
    link = tmp_path / "link"
    link.symlink_to(bare.root)
    bare.python(link / "train.py", check=True, cwd=tmp_path)
    code = json.loads((bare.runs()[-1] / "code.json").read_text())
    assert code["listed"] == []


def test_a_record_that_may_not_be_written_is_verified_all_the_same(bare, tmp_path):
    run = train(bare)
    copy = tmp_path / "archive" / run.name
    shutil.copytree(run, copy)
    (copy / "verification.json").mkdir()
    done = bare.lab("verify", copy)
    assert f"{run.name}: identical" in done.stdout
    assert done.returncode == 2


def test_what_changed_before_a_run_went_on_is_named(bare):
    run = train(bare, loss="1 / 0", check=False)
    edit(run / "environment.json", platform="Linux-5.4", variables={"MKL_CBWR": "COMPATIBLE"},
         settings={"TZ": "Asia/Tokyo"})  # fmt: skip
    script = (f"from {bare.package}.lab import records; from pathlib import Path\n"
              "records.find(Path.cwd(), 'latest').go_on(Path.cwd(), 0, 3)")  # fmt: skip
    said = bare.python("-c", script, check=True).stdout
    assert "warning: platform: platform: Linux-5.4 -> " in said
    assert "Tokyo" not in said
    (resumed,) = json.loads((run / "code.json").read_text())["resumes"]
    assert "variables: MKL_CBWR: COMPATIBLE -> none" in resumed["changes"]


def test_the_recorded_environment_is_rebuilt_with_pip(repository, tmp_path):
    run = train(repository, loss=VERSION, weights='importlib.metadata.version("idna")')
    surroundings = json.loads((run / "environment.json").read_text())
    numpy = next(one for one in surroundings["packages"] if one["name"] == "numpy")
    old = {"name": "idna", "version": "3.9", "manager": "pip"}
    surroundings["packages"] = [numpy, old]
    (run / "environment.json").write_text(json.dumps(surroundings))
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"weights_sha256": "3.9"}))
    rows = run / "metrics.jsonl"
    rows.write_text(re.sub(r'"train_loss": [\d.]+', '"train_loss": 3.9', rows.read_text()))
    code, verdict, said = verify(repository)
    assert (code, verdict["verdict"]) == (1, "different")
    assert any(line.startswith("idna: 3.9 -> ") for line in verdict["causes"]["packages"])
    code, verdict, said = verify(repository, "--restore", tmp_path / "rebuilt")
    assert (code, verdict["verdict"]) == (0, "identical"), said
    python = tmp_path / "rebuilt" / "bin" / "python"
    listed = repository.run(python, "-m", "pip", "list", "--format=freeze").stdout
    assert "idna==3.9\n" in listed
    assert f"numpy=={numpy['version']}\n" in listed
    assert verify(repository, "--restore", tmp_path / "rebuilt")[0] == 0  # used again
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.tex").touch()
    refused = repository.lab("verify", "latest", "--restore", tmp_path / "occupied")
    assert refused.returncode == 2
    assert (tmp_path / "occupied" / "thesis.tex").exists()


def test_condas_packages_need_one_of_its_tools_and_it_says_so(repository, tmp_path):
    path = train(repository) / "environment.json"
    surroundings = json.loads(path.read_text())
    url = "https://conda.example.org/linux-64/zlib-1.3-0.conda"
    conda = {"name": "zlib", "version": "1.3", "manager": "conda", "url": url, "md5": "0" * 32}
    path.write_text(json.dumps(surroundings | {"packages": [conda]}))
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "git").symlink_to(shutil.which("git"))
    asked = repository.lab(
        "verify", "latest", "--restore", tmp_path / "env", env={"PATH": str(tools)}
    )
    assert asked.returncode == 2
    assert "micromamba" in asked.stderr
    said = tmp_path / "said"
    (tools / "mamba").write_text(
        f'#!/bin/sh\necho "$@" > {said}\n/bin/cat "$6" >> {said}\nexit 1\n'
    )
    (tools / "mamba").chmod(0o755)
    asked = repository.lab(
        "verify", "latest", "--restore", tmp_path / "env", env={"PATH": str(tools)}
    )
    assert asked.returncode == 2
    assert f"{url}#{'0' * 32}" in said.read_text()
    assert not Path(tmp_path / "env").exists()


def test_a_file_damaged_before_the_run_explains_nothing(bare):
    site = bare.root.parent / "site-packages"
    (site / "tiny.py").write_text("edited\n")
    (site / "tiny-1.0.dist-info" / "RECORD").write_text("tiny.py,sha256=AAAA,6\n")
    time.sleep(1.1)  # a run's id is in seconds
    run = train(bare)
    lines = (run / "metrics.jsonl").read_text().replace('"train_loss": 1.0', '"train_loss": 2.0')
    (run / "metrics.jsonl").write_text(lines)
    _, verdict, _ = verify(bare)
    assert "edited libraries" not in verdict["causes"]
    (site / "tiny.py").write_text("edited again\n")
    _, verdict, _ = verify(bare)
    assert "edited libraries" in verdict["causes"]
    (site / "tiny.py").unlink()
    assert "tiny.py (tiny) missing" in verify(bare)[2]


@pytest.mark.parametrize("tolerance", ["-1", "nan", "inf"])
def test_a_tolerance_is_a_number_of_zero_or_more(bare, tolerance):
    train(bare)
    done = bare.lab("verify", "latest", f"--tolerance={tolerance}")
    assert done.returncode == 2
    assert "out of range; use 0 or more" in done.stderr


def test_a_card_keeps_the_newer_verdict_and_verify_says_how_to_show_it(bare):
    run = train(bare)
    card = bare.root / "reports" / "01_toy" / "run"

    def write_card():
        code = (
            f"from pathlib import Path; from {bare.package}.lab import records\n"
            f"records.write_card(records.Record(Path({str(run)!r})), Path({str(card)!r}))"
        )
        bare.python("-c", code, check=True)
        return json.loads((card / "verification.json").read_text())

    assert verify(bare, "--epochs", "1")[0] == 0
    assert write_card()["epochs"] == 1
    time.sleep(1.1)
    done = bare.lab("verify", "reports/01_toy", check=True)
    assert "lab report --readme" in done.stdout
    assert write_card()["epochs"] is None


def test_a_report_is_found_by_the_beginning_of_its_name(bare):
    run = train(bare)
    shutil.copytree(run, bare.root / "reports" / "01_toy" / "run")
    for name in ("reports/01", "01_t"):
        assert bare.lab("verify", name).returncode == 0
    assert bare.lab("verify", "02").returncode == 2


def test_a_verdict_is_shown_without_training_again(bare):
    run = train(bare)
    report = bare.root / "reports" / "01_baseline"
    shutil.copytree(run, report / "run")
    (report / "README.md").write_text("# T\n\n**Run** `x` · **Verified** not yet · **Test** 1%\n")
    bare.git("add", "-f", "reports")
    assert bare.lab("verify", "reports/01_baseline").returncode == 0
    assert "it was verified since; lab report --readme" in bare.lab("check").stdout
    runs = bare.runs()
    bare.lab("report", "--readme", check=True)
    assert "**Verified** identical · **Test** 1%" in (report / "README.md").read_text()
    assert "| identical |" in (bare.root / "README.md").read_text()
    assert bare.runs() == runs
    assert "it was verified since" not in bare.lab("check").stdout
    (report / "run" / "verification.json").write_text("{")  # torn: nobody knows what it said
    bare.lab("report", "--readme", check=True)
    assert "**Verified** not yet · **Test** 1%" in (report / "README.md").read_text()
    assert "| not yet |" in (bare.root / "README.md").read_text()


def test_as_many_epochs_as_a_run_had_are_the_whole_run(bare):
    train(bare)
    assert verify(bare, "--epochs", "2")[1]["verdict"] == "identical"


def test_a_value_recorded_as_a_whole_number_is_the_same_number(bare):
    edit(train(bare) / "config.json", betas=[1, 2])
    assert verify(bare)[1]["verdict"] == "identical"


def test_weights_predictions_and_the_best_epoch_may_differ_where_metrics_may(bare):
    run = train(bare)
    np.savez(run / "predictions.npz", more=np.zeros(1))
    edit(run / "result.json", weights_sha256="of before", best_epoch=1)
    code, verdict, _ = verify(bare)
    assert (code, verdict["verdict"], verdict["differences"]) == (1, "different", 3)
    assert verify(bare, "--tolerance", "0.1")[1]["verdict"] == "within tolerance"


def test_variables_of_a_machine_are_its_own_and_others_are_those_of_the_record(bare):
    given = "float(os.environ['CUDA_VISIBLE_DEVICES'] + os.environ.get('OMP_DYNAMIC', '0'))"
    train(bare, loss=given, env={"CUDA_VISIBLE_DEVICES": "3"})
    _, verdict, said = verify(bare, env={"CUDA_VISIBLE_DEVICES": "3", "OMP_DYNAMIC": "1"})
    assert verdict["verdict"] == "identical"
    assert "shell: OMP_DYNAMIC: 1 here, none in both runs" in said
    _, verdict, _ = verify(bare, env={"CUDA_VISIBLE_DEVICES": "5"})
    assert verdict["first_difference"]["again"] == 50


def test_what_happened_to_a_resumed_run_is_named(bare):
    run = train(bare)
    edit(run / "result.json", weights_sha256="of before")
    edit(run / "code.json", resumes=[{"epoch": 1, "changes": []}])
    assert "which was resumed: is all state in save and go_on?" in verify(bare)[2]
    edit(run / "code.json", resumes=[{"epoch": 1, "changes": ["packages: torch: 1 -> 2"]}])
    edit(
        run / "environment.json",
        packages=[{"name": f"p{number}", "version": "1"} for number in range(25)],
    )
    _, verdict, said = verify(bare)
    assert verdict["causes"]["code"] == ["at epoch 1: packages: torch: 1 -> 2"]
    assert re.search(r"packages: and \d+ more", said)


def test_what_train_py_refuses_is_no_verdict(bare, tmp_path):
    refuse = "sys.exit('train.py: no data here')"
    run = train(bare, first=f"if os.path.exists({str(tmp_path / 'gone')!r}): {refuse}")
    edit(run / "data.json", data_dir="/nfs/gone")
    (tmp_path / "gone").touch()
    done = bare.lab("verify", "latest")
    assert done.returncode == 2
    assert "repeated here: train.py: no data here; its data was in /nfs/gone" in done.stderr


def test_code_that_imports_the_working_tree_is_not_verified(bare):
    train(bare, first=f"sys.path.insert(0, {str(bare.root / 'src')!r})")
    done = bare.lab("verify", "latest")
    assert done.returncode == 2
    assert "not the recorded code" in done.stderr


def test_what_a_run_had_started_ends_with_an_interrupted_verification(bare, tmp_path):
    begun = tmp_path / "begun"
    begun.touch()
    start = f"import subprocess; begun = Path({str(begun)!r})\n"
    start += "if not begun.exists():\n    child = subprocess.Popen(['sleep', '60'])\n"
    start += "    begun.write_text(str(child.pid)); child.wait()"
    train(bare, first=start)
    begun.unlink()
    command = [bare.interpreter, "-m", f"{bare.package}.lab.cli", "verify", "latest"]
    process = subprocess.Popen(command, cwd=bare.root, env=bare.env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (begun.exists() and begun.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 128 + signal.SIGINT
    child = Path(f"/proc/{begun.read_text()}/cmdline")
    while child.exists() and child.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not (child.exists() and child.read_bytes())
