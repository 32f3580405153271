"""Jupyter as people know it: opening, running and saving keeps both halves in step."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from conftest import Project, commit_all

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def opened(pristine, tmp_path_factory):
    """Start a real Jupyter server in a project; return the project and what asks its API."""
    folder = tmp_path_factory.mktemp("jupyter")
    root = folder / pristine.root.name
    shutil.copytree(pristine.root, root)
    for half in (".py", ".ipynb"):
        shutil.copy(root / f"notebooks/01_baseline{half}", root / f"notebooks/02_copy{half}")
    project = commit_all(Project(root))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
    home |= {"JUPYTER_RUNTIME_DIR": str(folder / "runtime"), "JUPYTER_TOKEN": "test"}
    unneeded = (
        "{'jupyterlab': False, 'jupyter_lsp': False, 'notebook_shim': False}"  # slow to start
    )
    options = ["--no-browser", f"--port={port}", "--ServerApp.port_retries=0", "--allow-root"]
    options += ["--ip=127.0.0.1", f"--ServerApp.jpserver_extensions={unneeded}"]
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "jupyter_server", *options]
        environment = {**os.environ, **project.env, **home}
        streams = {"stdout": log, "stderr": log}
        server = subprocess.Popen(command, cwd=root, env=environment, **streams)

    def ask(method, path, body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/{path}",
            method=method,
            data=json.dumps(body).encode() if body else None,
            headers={"Authorization": "token test", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    deadline = time.monotonic() + 120
    while True:
        try:
            ask("GET", "status")
            break
        except (urllib.error.URLError, ConnectionError):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
    yield project, ask
    server.terminate()
    server.wait(timeout=60)


def save_as_a_person_does(ask, path):
    """Open a file as a notebook, edit a cell, leave an output in it, and save."""
    model = ask("GET", f"contents/{path}?type=notebook&content=1")
    cells = model["content"]["cells"]
    cell = next(cell for cell in cells if "epochs = 30" in "".join(cell["source"]))
    cell["source"] = "".join(cell["source"]).replace("epochs = 30", "epochs = 12")
    output = {"output_type": "stream", "name": "stdout", "text": "seen in Jupyter\n"}
    cell["outputs"], cell["execution_count"] = [output], 1
    saved = {"type": "notebook", "format": "json", "content": model["content"]}
    ask("PUT", f"contents/{path}", saved)


@pytest.mark.parametrize(("name", "half"), [("01_baseline", ".py"), ("02_copy", ".ipynb")])
def test_saving_either_half_in_jupyter_keeps_both_in_step(opened, name, half):
    project, ask = opened
    stem = project.root / "notebooks" / name
    before = stem.with_suffix(".py").read_text(encoding="utf-8")
    save_as_a_person_does(ask, f"notebooks/{name}{half}")
    text = stem.with_suffix(".py").read_text(encoding="utf-8")
    assert text == before.replace("epochs = 30", "epochs = 12")  # one line of diff, no more
    assert "seen in Jupyter" in stem.with_suffix(".ipynb").read_text(encoding="utf-8")
    done = project.lab("check", name, "--strict")
    assert (done.returncode, done.stdout) == (0, "")
    assert project.lab("sync", name, check=True).stdout == ""
    again = ask("GET", f"contents/notebooks/{name}{half}?type=notebook&content=1")
    assert "seen in Jupyter" in json.dumps(again)  # opened again, the outputs are there


def test_train_py_opened_in_jupyter_is_no_half_of_anything(opened):
    project, ask = opened
    model = ask("GET", "contents/train.py?type=file&format=text&content=1")
    saved = {"type": "file", "format": "text", "content": model["content"] + "\n# more\n"}
    ask("PUT", "contents/train.py", saved)
    assert not (project.root / "train.ipynb").exists()
