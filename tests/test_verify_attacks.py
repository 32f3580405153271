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
    assert "epoch 1, train_loss" in said


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
