"""The Dockerfile: linted, and each step that needs no image run by itself."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import yaml
from conda_channel import read_environment


@pytest.fixture
def dockerfile(pristine):
    return (pristine.root / "Dockerfile").read_text(encoding="utf-8")


def test_hadolint_has_nothing_to_say_about_the_dockerfile(bake):
    project = bake(python_version="3.13")
    done = project.run("hadolint", "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_the_image_is_pinned_not_roots_and_does_not_hold_the_project(dockerfile, pristine):
    assert re.search(r"(?m)^FROM mambaorg/micromamba:\d+\.\d+\.\d+-\S+$", dockerfile)
    assert "@sha256:..." in dockerfile  # where a digest goes
    users = re.findall(r"(?m)^USER (\S+)", dockerfile)
    assert users[-1] == "57439"
    copied = re.findall(r"(?m)^COPY --chown=57439:57439 (.*) \S+$", dockerfile)
    assert copied == ["[ec]*", "pyproject.toml"]
    ignored = (pristine.root / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert ignored[1] == "*"
    kept = [line[1:] for line in ignored if line.startswith("!")]
    assert kept == ["environment*.yml", "conda-*.lock", "pyproject.toml"]


@pytest.mark.parametrize("name", ["environment.yml", "environment-gpu.yml"])
def test_without_a_lock_the_image_installs_what_environment_yml_asks_for(dockerfile, project, name):
    """Run the image's own shell line, with a micromamba that shows what it is given."""
    line = re.search(r"RUN (if \[ -f .*?fi) \\", dockerfile)[1]
    env = {"LOCK": "conda-linux-64.lock", "ENVIRONMENT": name}
    project.run("sh", "-ec", line, env=env, check=True)
    asked = yaml.safe_load((project.root / "asked.yml").read_text(encoding="utf-8"))
    assert asked["dependencies"] == read_environment(project.root / name)[0]
    assert not (project.root / "asked.txt").exists()


def test_with_a_lock_the_image_installs_the_lock(dockerfile, project):
    (project.root / "conda-linux-64.lock").write_text("@EXPLICIT\n", encoding="utf-8")
    line = re.search(r"RUN (if \[ -f .*?fi) \\", dockerfile)[1]
    env = {"LOCK": "conda-linux-64.lock", "ENVIRONMENT": "environment.yml"}
    project.run("sh", "-ec", line, env=env, check=True)
    assert (project.root / "asked.txt").read_text(encoding="utf-8") == "@EXPLICIT\n"
    assert not (project.root / "asked.yml").exists()


@pytest.mark.slow
def test_a_project_mounted_over_the_images_empty_package_has_its_command(
    dockerfile, project, tmp_path
):
    folder, venv = tmp_path / "project", tmp_path / "venv"
    folder.mkdir()
    shutil.copy(project.root / "pyproject.toml", folder)
    line = re.search(r"RUN (mkdir -p src.*?)(?: \\)", dockerfile)[1]
    project.run("sh", "-ec", line, cwd=folder, check=True)
    project.run(sys.executable, "-m", "venv", "--without-pip", venv, check=True)
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install"]
    env = {"PYTHONPATH": sysconfig.get_path("purelib")}  # hatchling, so that nothing is fetched
    options = ("--no-build-isolation", "--no-deps", "--quiet", "--editable")
    project.run(*pip, *options, folder, cwd=folder, env=env, check=True)
    shutil.copytree(project.root, folder, dirs_exist_ok=True)  # the mount
    done = project.run(venv / "bin" / "lab", "--help", cwd=folder, env={"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


def health(dockerfile):
    """Run the health check's own command, by the python at hand."""
    command = json.loads(re.search(r"(?m)^    CMD (\[.*\])$", dockerfile)[1])
    assert command[0] == "/opt/conda/bin/python"
    return [sys.executable, *command[1:]]


def test_a_container_that_trains_is_healthy_while_it_runs(dockerfile):
    if b"jupyter" in Path("/proc/1/cmdline").read_bytes():
        pytest.skip("a Jupyter server is this machine's first process")
    assert subprocess.run(health(dockerfile), check=False, timeout=30).returncode == 0


@pytest.mark.slow
def test_a_jupyter_server_is_healthy_once_it_answers(dockerfile, tmp_path):
    """A process namespace of its own makes the server process 1, as in a container."""
    own = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*own, "true"], check=False).returncode:
        pytest.skip("process namespaces are not allowed here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    check = [part.replace(":8888", f":{port}") for part in health(dockerfile)]
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "JUPYTER_TOKEN": "secret",
    }
    serve = ["jupyter", "server", "--no-browser", "--allow-root", f"--port={port}"]
    serve.append("--ServerApp.port_retries=0")
    with subprocess.Popen(
        [*own, *serve], env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
            inside = []
            deadline = time.monotonic() + 240
            while not inside and time.monotonic() < deadline:
                inside = children.read_text(encoding="ascii").split()
            enter = ["nsenter", "--target", inside[0], "--pid", "--mount", *check]
            codes = [subprocess.run(enter, capture_output=True, check=False, timeout=30).returncode]
            while codes[-1] and time.monotonic() < deadline:
                time.sleep(1)
                done = subprocess.run(enter, capture_output=True, check=False, timeout=30)
                codes.append(done.returncode)
        finally:
            server.kill()
    assert codes[-1] == 0, "the server answers, so the container is healthy"
    assert set(codes[:-1]) <= {1}, "until it answers it is not"
