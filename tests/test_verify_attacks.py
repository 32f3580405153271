"""Attacks on the verdict: where the numbers change it is `different` and the cause is named."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import Project, commit_all
from PIL import Image

pytestmark = [pytest.mark.torch, pytest.mark.slow]
FOLDER = ("--dataset", "folder", "--image-size", "16", "--batch-size", "8", "--epochs", "1")
LOSS = "loss = functional.cross_entropy(logits, labels)"


@pytest.fixture
def start(pristine, tmp_path):
    """Make a project whose loss is scaled by what the test imports."""

    def make(name="lab", imports="", scale="1.0") -> Project:
        root = tmp_path / name
        shutil.copytree(pristine.root, root, symlinks=True)
        train = root / "train.py"
        text = train.read_text().replace(
            LOSS, f"loss = ({scale}) * functional.cross_entropy(logits, labels)"
        )
        assert LOSS not in text
        train.write_text(text.replace("import torch\n", f"{imports}\nimport torch\n", 1))
        return commit_all(Project(root))

    return make


def verify(project, *options, **settings):
    """Verify the last run; return the exit code, the verdict and what was printed."""
    done = project.lab("verify", "latest", *options, **settings)
    path = project.runs()[-1] / "verification.json"
    assert path.exists(), done.stderr
    return done.returncode, json.loads(path.read_text()), done.stdout


def forge(path, text):
    """Change a file so that size and time give nothing away."""
    status = path.stat()
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size


@pytest.mark.parametrize("hidden", [False, True], ids=["edited", "edited with its time forged"])
def test_a_library_edited_in_place_is_named(start, tmp_path, hidden):
    wheel = tmp_path / "smalllib-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        info = "smalllib-1.0.dist-info"
        archive.writestr("smalllib.py", "SCALE = 1.0\n")
        digest = (
            base64.urlsafe_b64encode(hashlib.sha256(b"SCALE = 1.0\n").digest()).decode().rstrip("=")
        )
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: smalllib\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(
            f"{info}/RECORD",
            f"smalllib.py,sha256={digest},12\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
        )
    site = tmp_path / "site-packages"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel]
    subprocess.run(pip, check=True, capture_output=True)
    project = start(imports="from smalllib import SCALE", scale="SCALE")
    env = {"PYTHONPATH": f"{project.root / 'src'}{os.pathsep}{site}"}
    project.train("--epochs", "1", env=env, check=True)
    library = site / "smalllib.py"
    if hidden:
        forge(library, "SCALE = 1.5\n")
        shutil.rmtree(site / "__pycache__", ignore_errors=True)  # else Python keeps the old code
    else:
        library.write_text("SCALE = 1.5\n")
        later = library.stat().st_mtime + 60
        os.utime(library, (later, later))
    code, verdict, said = verify(project, env=env)
    assert (code, verdict["verdict"]) == (1, "different")
    assert list(verdict["causes"]) == ["edited libraries"]
    assert "smalllib.py" in said
    assert verdict["deterministic"] is (True if hidden else None)


@pytest.fixture
def pictures(tmp_path):
    """Write a folder of small pictures in two classes."""
    for index in range(24):
        folder = tmp_path / "pictures" / "train" / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shade = [(x * 7 + y * 3 + index * 29) % 256 for y in range(16) for x in range(16)]
        picture = Image.new("L", (16, 16))
        picture.putdata(shade)
        picture.convert("RGB").save(folder / f"{index}.jpg", quality=95)
    return tmp_path / "pictures"


def test_a_data_file_changed_by_one_byte_is_named(start, pictures):
    project = start()
    options = (*FOLDER, "--data-dir", pictures)
    project.train(*options, check=True)
    victim = sorted(pictures.rglob("*.jpg"))[3]
    original = victim.read_bytes()
    status = victim.stat()
    before = Image.open(victim).convert("RGB").tobytes()
    for place in range(len(original) - 40, 0, -1):
        victim.write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
        try:
            if Image.open(victim).convert("RGB").tobytes() != before:
                break
        except OSError:
            continue
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))  # no cache may answer for it
    code, verdict, said = verify(project)
    assert (code, verdict["verdict"]) == (1, "different"), said
    assert list(verdict["causes"]) == ["data"]
    assert "fingerprint" in said
    victim.write_bytes(original)
    assert verify(project)[:2][1]["verdict"] == "identical"


def test_the_order_of_files_on_disk_and_the_place_of_the_data_change_nothing(start, pictures):
    project = start()
    options = (*FOLDER, "--data-dir", pictures)
    project.train(*options, check=True)
    held = [(path, path.read_bytes()) for path in pictures.rglob("*.jpg")]
    shutil.rmtree(pictures)
    for path, content in sorted(held, reverse=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    code, verdict, _ = verify(project)
    assert (code, verdict["verdict"]) == (0, "identical")
    shutil.rmtree(pictures)
    asked = project.lab("verify", "latest")
    assert asked.returncode == 2
    assert "cannot be repeated here" in asked.stderr


def test_a_changed_file_behind_a_symbolic_link_is_named(start, tmp_path):
    shared = tmp_path / "shared.py"
    shared.write_text("SCALE = 1.0\n")
    project = start(imports="from linked import SCALE", scale="SCALE")
    (project.root / "linked.py").symlink_to("../shared.py")
    project.train("--epochs", "1", check=True)
    assert verify(project)[1]["verdict"] == "identical"
    shared.write_text("SCALE = 1.5\n")
    code, verdict, said = verify(project)
    assert code == 1
    assert verdict["verdict"] == "different"
    assert "linked.py (behind a symbolic link) changed since the run" in said


def test_a_module_that_git_ignores_is_named_when_it_changed(start):
    project = start(imports="from scratch import SCALE", scale="SCALE")
    (project.root / ".git" / "info" / "exclude").write_text("scratch.py\n")
    (project.root / "scratch.py").write_text("SCALE = 1.0\n")
    project.train("--epochs", "1", check=True)
    assert verify(project)[1]["verdict"] == "identical"
    (project.root / "scratch.py").write_text("SCALE = 1.5\n")
    code, verdict, said = verify(project)
    assert (code, verdict["verdict"]) == (1, "different")
    assert "scratch.py (imported, ignored by git) changed since the run" in said


def test_a_change_in_a_submodule_is_named(start, tmp_path):
    library = tmp_path / "library"
    library.mkdir()
    (library / "inner.py").write_text("SCALE = 1.0\n")
    project = start(imports="from third.inner import SCALE", scale="SCALE")
    for argv in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "library")):
        project.run("git", *argv, cwd=library, check=True)
    project.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", library, "third")
    project.git("commit", "-qm", "submodule", "--no-verify")
    inner = project.root / "third" / "inner.py"
    inner.write_text("SCALE = 1.5  # no commit holds this\n")
    project.train("--epochs", "1", check=True)
    assert verify(project)[1]["verdict"] == "identical"
    inner.write_text("SCALE = 1.0\n")
    code, verdict, said = verify(project)
    assert (code, verdict["verdict"]) == (1, "different")
    assert "submodule third had changes that no commit holds" in said


def test_wall_clock_time_as_randomness_is_called_non_deterministic(start):
    project = start(imports="import time as clock", scale="1 + (clock.time_ns() % 1000) / 1000")
    project.train("--epochs", "1", check=True)
    code, verdict, said = verify(project)
    assert (code, verdict["verdict"]) == (1, "different")
    assert verdict["deterministic"] is False
    assert "non-deterministic" in said
    assert "epoch 1, train loss" in said


def test_an_editable_install_of_the_working_tree_is_not_what_is_verified(start, tmp_path):
    project = start()
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (site / "__editable__.lab.pth").write_text(f"{project.root / 'src'}\n")
    python = venv / "bin" / "python"
    env = {"PYTHONPATH": ""}
    project.run(python, "train.py", "--epochs", "1", env=env, check=True)
    model = project.root / "src" / project.package / "models.py"
    model.write_text("raise RuntimeError('the working tree was imported')\n")
    done = project.run(python, "-m", f"{project.package}.lab.cli", "verify", "latest", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": identical" in done.stdout


def test_two_verifications_at_once_do_not_meet(start):
    project = start()
    project.train("--epochs", "1", check=True)
    command = [sys.executable, "-m", f"{project.package}.lab.cli", "verify", "latest"]
    both = [
        subprocess.Popen(command, cwd=project.root, env=project.env, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(": identical" in text for text in said)
    assert len(project.git("worktree", "list").stdout.splitlines()) == 1


def test_a_distributed_run_is_verified_by_as_many_processes(start):
    project = start()
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py")
    project.python(*torchrun, "--epochs", "1", check=True)
    code, verdict, said = verify(project)
    assert (code, verdict["verdict"]) == (0, "identical"), said


TOY = """
import argparse, importlib.metadata, sys
from pathlib import Path
ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "src"))
from {package}.lab.records import Record
parser = argparse.ArgumentParser()
parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs")
given, _ = parser.parse_known_args()
config = dict(dataset="toy", model="toy", epochs=1, seed=1, device="cpu", threads=1)
record = Record.create(ROOT, given.runs_dir, config=config, data=dict(), files=[], data_dir=ROOT,
                       argv=[], world_size=1)
version = importlib.metadata.version("idna")
record.append(dict(epoch=1, train_loss=float(".".join(version.split(".")[:2])), seconds=0.0))
record.finish(dict(test_loss=0.0, epochs=1, seconds=0.0, weights_sha256=version))
"""  # a run in which a library's version is all that matters


def test_the_recorded_environment_is_rebuilt_with_pip(start, tmp_path):
    project = start()
    (project.root / "train.py").write_text(TOY.format(package=project.package))
    project.python("train.py", check=True)
    run = project.runs()[-1]
    surroundings = json.loads((run / "environment.json").read_text())
    numpy = next(one for one in surroundings["packages"] if one["name"] == "numpy")
    old = {"name": "idna", "version": "3.9", "manager": "pip"}
    surroundings["packages"] = [numpy, old]
    (run / "environment.json").write_text(json.dumps(surroundings))
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"weights_sha256": "3.9"}))
    rows = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(json.dumps(json.loads(rows) | {"train_loss": 3.9}) + "\n")
    code, verdict, said = verify(project)
    assert (code, verdict["verdict"]) == (1, "different")
    assert any(line.startswith("idna: 3.9 -> ") for line in verdict["causes"]["packages"])
    code, verdict, said = verify(project, "--restore", tmp_path / "rebuilt")
    assert (code, verdict["verdict"]) == (0, "identical"), said
    python = tmp_path / "rebuilt" / "bin" / "python"
    listed = project.run(python, "-m", "pip", "list", "--format=freeze").stdout
    assert "idna==3.9\n" in listed
    assert f"numpy=={numpy['version']}\n" in listed
    assert verify(project, "--restore", tmp_path / "rebuilt")[0] == 0  # used again
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.tex").touch()
    refused = project.lab("verify", "latest", "--restore", tmp_path / "occupied")
    assert refused.returncode == 2
    assert (tmp_path / "occupied" / "thesis.tex").exists()


def test_condas_packages_need_one_of_its_tools_and_it_says_so(start, tmp_path):
    project = start()
    (project.root / "train.py").write_text(TOY.format(package=project.package))
    project.python("train.py", check=True)
    path = project.runs()[-1] / "environment.json"
    surroundings = json.loads(path.read_text())
    url = "https://conda.example.org/linux-64/zlib-1.3-0.conda"
    conda = {"name": "zlib", "version": "1.3", "manager": "conda", "url": url, "md5": "0" * 32}
    path.write_text(json.dumps(surroundings | {"packages": [conda]}))
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "git").symlink_to(shutil.which("git"))
    asked = project.lab("verify", "latest", "--restore", tmp_path / "env", env={"PATH": str(tools)})
    assert asked.returncode == 2
    assert "micromamba" in asked.stderr
    said = tmp_path / "said"
    (tools / "mamba").write_text(
        f'#!/bin/sh\necho "$@" > {said}\n/bin/cat "$6" >> {said}\nexit 1\n'
    )
    (tools / "mamba").chmod(0o755)
    asked = project.lab("verify", "latest", "--restore", tmp_path / "env", env={"PATH": str(tools)})
    assert asked.returncode == 2
    assert f"{url}#{'0' * 32}" in said.read_text()
    assert not Path(tmp_path / "env").exists()
