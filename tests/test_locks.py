"""`lab lock`: by uv and conda-lock for real; behind conda's command line stands its solver."""

import json
import os
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from conda_channel import build_channel
from conftest import Project, commit_all
from packaging.requirements import Requirement

CONDA_LOCKS = {
    "conda-lock.yml",
    "conda-linux-64.lock",
    "conda-linux-64-gpu.lock",
    "conda-osx-arm64.lock",
    "conda-win-64.lock",
}


@pytest.fixture(scope="session")
def conda(tmp_path_factory):
    """Install a conda that knows one channel."""
    channel = build_channel(tmp_path_factory.mktemp("channel"))
    folder = tmp_path_factory.mktemp("conda")
    program = folder / "conda"
    source = Path(__file__).with_name("rattler_conda.py").read_text(encoding="utf-8")
    program.write_text(f"#!{sys.executable}\n{source}", encoding="utf-8")
    program.chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {"PATH": path, "CHANNEL_HERE": channel.as_uri(), "GITHUB_ACTIONS": ""}


@pytest.fixture(scope="session")
def locked_once(pristine, conda, tmp_path_factory):
    """Write all locks of a project that nobody changes."""
    root = tmp_path_factory.mktemp("locked") / pristine.root.name
    shutil.copytree(pristine.root, root)
    project = commit_all(Project(root))
    done = project.lab("lock", env=conda, check=True)
    return project, done.stdout


@pytest.fixture
def locked(locked_once, tmp_path):
    root = tmp_path / locked_once[0].root.name
    shutil.copytree(locked_once[0].root, root)
    return Project(root)


def requirements(root):
    text = (root / "requirements.lock").read_text(encoding="utf-8")
    return text, [Requirement(line.rstrip("\\ ")) for line in re.findall(r"(?m)^\w.*", text)]


@pytest.mark.slow
def test_lock_writes_a_lock_for_pip_and_for_every_platform_of_conda(locked_once):
    project, said = locked_once
    written = {line.removesuffix(": written") for line in said.splitlines()}
    assert written == CONDA_LOCKS | {"requirements.lock"}
    content = yaml.safe_load((project.root / "conda-lock.yml").read_text(encoding="utf-8"))
    assert content["metadata"]["platforms"] == ["linux-64", "osx-arm64", "win-64"]
    assert all(package["hash"]["sha256"] for package in content["package"])
    for name in CONDA_LOCKS - {"conda-lock.yml"}:
        lines = (project.root / name).read_text(encoding="utf-8").split("@EXPLICIT\n")[1]
        assert all(re.search(r"\.(conda|tar\.bz2)#[0-9a-f]{32}$", one) for one in lines.split())
        build = re.search(r"/pytorch-2\.13\.0-(cpu|cuda129)", lines)[1]
        assert build == ("cuda129" if "gpu" in name else "cpu"), name


@pytest.mark.slow
def test_the_lock_for_pip_holds_hashes_for_all_systems_and_names_no_host(locked_once):
    text, pinned = requirements(locked_once[0].root)
    assert "://" not in text
    assert len(pinned) > 100
    assert all(str(one.specifier).startswith("==") for one in pinned)
    blocks = re.split(r"(?m)^(?=\w)", text)[1:]
    assert all("--hash=sha256:" in block for block in blocks)
    names = {one.name for one in pinned}
    assert {"torch", "torchvision", "pypandoc-binary", "pytest", "uv"} <= names
    for name in ("torch", "numpy", "matplotlib"):  # what the results were made with
        installed = version(name).partition("+")[0]
        assert f"=={installed}" in {str(one.specifier) for one in pinned if one.name == name}
    windows = [one for one in pinned if one.marker and "win32" in str(one.marker)]
    assert windows, "the lock serves Windows, too"


@pytest.mark.slow
def test_a_python_that_is_limited_at_both_ends_is_locked_from_the_lower(project):
    source = project.root / "pyproject.toml"
    text = source.read_text(encoding="utf-8")
    text = text.replace('requires-python = ">=3.11"', 'requires-python = ">=3.11,<3.14"')
    source.write_text(text, encoding="utf-8")
    done = project.lab("lock", env={"CONDA_EXE": "", "MAMBA_EXE": ""})
    assert "requirements.lock: written" in done.stdout


def test_without_conda_a_file_for_gpus_that_was_deleted_is_not_missed(project):
    (project.root / "environment-gpu.yml").unlink()
    done = project.lab("lock", env={"PATH": "/nowhere", "CONDA_EXE": "", "MAMBA_EXE": ""})
    assert "conda-lock.yml: not written: no conda, mamba or micromamba is installed" in done.stdout


@pytest.mark.slow
def test_a_source_that_is_edited_while_it_is_solved_makes_the_lock_stale(project, tmp_path):
    slow = tmp_path / "uv"
    edit = """sed -i 's/^dependencies = \\[/&\\n  "einops>=0.8",/' """
    slow.write_text(f'#!/bin/sh\n{shutil.which("uv")} "$@"\n{edit}{project.root}/pyproject.toml\n')
    slow.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    project.lab("lock", env={"PATH": path, "CONDA_EXE": "", "MAMBA_EXE": ""})
    assert "einops" in (project.root / "pyproject.toml").read_text(encoding="utf-8")
    done = project.lab("lock", "--check")
    assert "requirements.lock: pyproject.toml has changed since" in done.stdout
    assert done.returncode == 1


@pytest.mark.slow
def test_locks_that_belong_to_their_sources_are_good(locked):
    done = locked.lab("lock", "--check", env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("up to date") == 6


@pytest.mark.slow
def test_a_comment_leaves_the_locks_good_and_a_dependency_does_not(locked):
    environment = locked.root / "environment.yml"
    text = environment.read_text(encoding="utf-8")
    environment.write_text(text + "# reviewed\n", encoding="utf-8")
    assert locked.lab("lock", "--check").returncode == 0
    environment.write_text(text.replace("numpy=2.4", "numpy=2.3"), encoding="utf-8")
    done = locked.lab("lock", "--check", env={"GITHUB_ACTIONS": "true"})
    assert done.returncode == 1
    assert "::error file=conda-linux-64.lock::" in done.stdout
    assert "environment.yml has changed since; run `lab lock`" in done.stdout
    assert "requirements.lock: up to date" in done.stdout
    assert "::requirements.lock" not in done.stdout


@pytest.mark.slow
def test_tool_settings_do_not_make_the_lock_for_pip_stale(locked):
    source = locked.root / "pyproject.toml"
    text = source.read_text(encoding="utf-8")
    source.write_text(text + '\n[tool.codespell]\nskip = "data"\n', encoding="utf-8")
    assert locked.lab("lock", "--check").returncode == 0
    source.write_text(text.replace('"tqdm>=4.66', '"tqdm>=4.67'), encoding="utf-8")
    done = locked.lab("lock", "--check")
    assert done.returncode == 1
    assert "requirements.lock: pyproject.toml has changed since" in done.stdout


def test_a_project_without_locks_is_told_how_to_get_them(project):
    done = project.lab("lock", "--check")
    assert done.returncode == 0
    assert "`lab lock` writes them" in done.stdout


def test_lock_says_what_it_could_not_do_where_neither_uv_nor_conda_is(project):
    done = project.lab("lock", env={"PATH": "/usr/bin:/bin", "CONDA_EXE": "", "MAMBA_EXE": ""})
    assert "requirements.lock: not written: uv is not installed" in done.stdout
    assert "conda-lock.yml: not written: no conda, mamba or micromamba" in done.stdout
    assert not list(project.root.glob("*.lock"))


def test_a_conda_without_conda_lock_and_uv_is_told_which_to_install(project, conda):
    path = f"{conda['PATH'].split(os.pathsep)[0]}:/usr/bin:/bin"
    done = project.lab("lock", env={**conda, "PATH": path})
    assert "conda-lock.yml: not written: uv is not installed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("numpy>=2.4,<3 -> numpy>=99", r"there is no numpy>=99;"),
        ("numpy>=2.4,<3 -> numpy<1.20", r".*numpy<1\.20 exclude each other;"),
    ],
)
def test_what_pips_solver_refused_is_said_in_the_words_of_a_person(project, change, says):
    old, new = change.split(" -> ")
    source = project.root / "pyproject.toml"
    text = source.read_text(encoding="utf-8").replace(f'"{old}"', f'"{new}"')
    source.write_text(text, encoding="utf-8")
    done = project.lab("lock", env={"CONDA_EXE": "", "MAMBA_EXE": "", "COLUMNS": "60"})
    assert done.returncode == 1
    assert re.search(f"requirements.lock: not written: {says}", done.stdout), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("numpy=2.4 -> nmupy=2.4", r"there is no nmupy 2\.4"),
        ("numpy=2.4 -> numpy=2.9", r"there is no numpy 2\.9"),
        ("pytorch=2.13 -> pytorch=2.12", r"torchvision 0\.28\S* needs pytorch >=2\.13"),
        ("unreachable", r"out of reach; check network, proxy and `channels`"),
    ],
)
def test_what_the_solver_refused_is_said_in_the_words_of_a_person(project, conda, change, says):
    if change == "unreachable":
        conda = {**conda, "CHANNEL_HERE": "http://127.0.0.1:9/conda-forge"}
    else:
        old, new = change.split(" -> ")
        source = project.root / "environment.yml"
        text = source.read_text(encoding="utf-8")
        source.write_text(text.replace(f"- {old}", f"- {new}"), encoding="utf-8")
    (project.root / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    done = project.lab("lock", env=conda)
    assert done.returncode == 1
    assert re.search(f"conda-lock.yml: not written: .*{says}", done.stdout), done.stdout
    assert len(done.stdout.splitlines()) == 2  # a line for pip, a line for conda


@pytest.mark.parametrize(
    ("said", "means"),
    [  # as conda, mamba, rattler and uv print them
        (
            (
                "Could not solve for environment specs\nThe following package could not be installed\n"
                "└─ nmupy =2.4 * does not exist (perhaps a typo or a missing channel)."
            ),
            "there is no nmupy =2.4; fix its name or loosen its pin",
        ),
        (
            (
                "PackagesNotFoundError: The following packages are not available from current "
                "channels:\n\n  - nmupy=2.4\n"
            ),
            "there is no nmupy=2.4; fix its name or loosen its pin",
        ),
        (
            (
                "The following packages are incompatible\n├─ pytorch =2.12 * is requested and can be "
                "installed;\n└─ torchvision =0.28 * is not installable because it requires\n"
                "   └─ pytorch >=2.13.0,<2.14.0a0 *, which conflicts with any installable versions."
            ),
            (
                "torchvision =0.28 needs pytorch >=2.13.0,<2.14.0a0, which another pin excludes;"
                " loosen one of the two"
            ),
        ),
        (
            (
                "Encountered problems while solving:\n  - package torchvision-0.28.0-cpu_py311h_0"
                " requires pytorch 2.13.*, but none of the providers can be installed\n"
            ),
            (
                "package torchvision-0.28.0-cpu_py311h_0 needs pytorch 2.13.*, which another pin"
                " excludes; loosen one of the two"
            ),
        ),
        (
            (
                "└─ pytorch-gpu =2.13 * is not installable because it requires\n   └─ __cuda =* *, "
                "which is missing on the system."
            ),
            (
                "CUDA is asked for and there is no NVIDIA driver; use environment.yml, or set"
                " CONDA_OVERRIDE_CUDA=12.9 if the driver comes later"
            ),
        ),
        (
            (
                "error: No solution found when resolving dependencies\n  cause: Because nmupy was not"
                " found in the package registry and digits-lab depends on nmupy>=2.4,<3, we can"
                " conclude that your requirements are unsatisfiable.\n"
            ),
            "there is no nmupy; fix its name or loosen its pin",
        ),
        (
            "CondaHTTPError: HTTP 000 CONNECTION FAILED for url <https://example.org/x>",
            (
                "a channel or index is out of reach; check network, proxy and `channels` in"
                " environment.yml"
            ),
        ),
        ("something new\n", "something new"),
    ],
)
def test_messages_of_solvers_are_put_into_words(project, said, means):
    code = "import sys; from {}.lab.locks import explain; print(explain(sys.stdin.read()))"
    done = project.python("-c", code.format(project.package), input=said, check=True)
    assert done.stdout.strip() == means


@pytest.mark.parametrize(
    ("name", "content"),
    [("pyproject.toml", "[project\n"), ("environment.yml", "dependencies: [a\n")],
)
def test_a_source_that_cannot_be_read_is_named(project, name, content):
    (project.root / name).write_text(content, encoding="utf-8")
    (project.root / "requirements.lock").write_text("#\n", encoding="utf-8")
    (project.root / "conda-lock.yml").write_text("#\n", encoding="utf-8")
    done = project.lab("lock", "--check")
    assert done.returncode == 2
    assert f"lab: {name} cannot be read" in done.stderr
    assert json.dumps(done.stderr).count("\\n") == 1
