"""`lab doctor` in environments that conda's solver made, and in the one that runs the tests."""

import json
import os
import re
import shutil
import sys
import textwrap
from pathlib import Path

import pytest
from conda_channel import build_channel, explicit, read_environment, solve_on
from conftest import Project, commit_all

VENV = Path(sys.executable).parent
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"  # what solutions can be run with
BUILD = f"py{HERE.replace('.', '')}"
RUNS = 3


@pytest.fixture(scope="session")
def pristine(bake):
    """Make a project for the Python that runs the tests; nobody writes to it."""
    return bake(python_version=HERE)


@pytest.fixture(scope="session")
def conda(pristine, tmp_path_factory):
    """Solve both environment files and install the solutions; nobody writes to them."""
    folder = tmp_path_factory.mktemp("conda")
    channel = build_channel(folder / "channel")
    made = {}
    for name, machine in (("cpu", "linux-64"), ("gpu", "linux-64 with a GPU")):
        source = "environment-gpu.yml" if name == "gpu" else "environment.yml"
        specs, _ = read_environment(pristine.root / source)
        records, _ = solve_on(machine, specs, channel, prefix=folder / name)
        made[name] = (folder / name, explicit(records))
    return made


@pytest.fixture
def prefix(conda, tmp_path):
    """Copy the environment with the CPU build, to be spoilt."""
    shutil.copytree(conda["cpu"][0], tmp_path / "prefix", symlinks=True)
    return tmp_path / "prefix"


@pytest.fixture(scope="session")
def healthy(pristine, tmp_path_factory):
    """Set a project up; nobody writes to it."""
    folder = tmp_path_factory.mktemp("healthy")
    shutil.copytree(pristine.root, folder / pristine.root.name)
    project = commit_all(Project(folder / pristine.root.name))
    project.lab("setup", check=True)
    return project


def ask(project, *options, python=sys.executable, env=None):
    """Ask the doctor; return the findings by check, and the exit code."""
    env = {"PATH": f"{Path(python).parent}{os.pathsep}/usr/bin:/bin", **(env or {})}
    argv = (python, "-m", f"{project.package}.lab.cli", "doctor", "--json", *options)
    done = project.run(*argv, env=env)
    assert done.returncode in (0, 1), done.stderr
    rows = {}
    for row in json.loads(done.stdout):
        rows.setdefault(row["check"], []).append(row)
    wrong = any(row["state"] == "mend" for found in rows.values() for row in found)
    assert done.returncode == int(wrong)
    return rows


def mends(rows, check):
    """Return what must be mended of one check, as one text, and the commands."""
    wrong = [row for row in rows[check] if row["state"] == "mend"]
    return "\n".join(text for row in wrong for text in row["found"]), [row["mend"] for row in wrong]


@pytest.mark.slow
def test_a_healthy_checkout_is_told_so_in_one_screen_and_in_two_seconds(healthy):
    seconds = []
    for _ in range(RUNS):
        before = os.times()
        done = healthy.lab("doctor")
        after = os.times()
        spent = after.children_user + after.children_system
        seconds.append(spent - before.children_user - before.children_system)
        assert done.returncode == 0, done.stdout
    assert min(seconds) < 2, seconds
    lines = done.stdout.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) < 160
    checks = [line.split()[1] for line in lines if not line.startswith(" ")]
    expected = ["git", "python", "environment", "gpu", "threads", "disk", "data", "kernel"]
    assert list(dict.fromkeys(checks)) == expected


def test_the_doctor_of_a_healthy_checkout_does_not_import_torch(healthy):
    code = (
        "import contextlib, io, sys; from pathlib import Path\n"
        f"from {healthy.package}.lab import doctor\n"
        "with contextlib.redirect_stdout(io.StringIO()): doctor.doctor(Path.cwd(), False, False)\n"
        "print('torch' in sys.modules)"
    )
    assert healthy.python("-c", code, check=True).stdout.strip() == "False"


def test_neither_doctor_nor_guard_waits_for_an_optional_check_of_addresses(healthy):
    for command in (["doctor"], ["guard", "--all"]):
        code = f"""
            import sys
            from {healthy.package}.lab.cli import main
            main({command})
            print("rfc3987:", sys.modules.get("rfc3987_syntax"))
        """
        done = healthy.python("-c", textwrap.dedent(code), check=True)
        assert done.stdout.endswith("rfc3987: None\n")  # 1.1 s of a start


def test_a_project_that_is_no_repository_is_sent_to_lab_setup(project):
    text, commands = mends(ask(project), "git")
    assert "not a git repository" in text
    assert commands == ["lab setup"]


def test_a_clone_without_hooks_and_filter_is_sent_to_lab_setup(repository):
    text, commands = mends(ask(repository), "git")
    assert "hook is not installed" in text
    assert "filter" in text
    assert commands == ["lab setup"]


def test_a_repository_of_another_owner_is_told_in_the_words_of_git(repository, tmp_path):
    env = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1", "HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}
    text, _ = mends(ask(repository, env=env), "git")
    assert "safe.directory" in text
    done = repository.lab("setup", env=env)
    assert done.returncode == 2
    assert "safe.directory" in done.stderr
    assert "made a repository" not in done.stdout


def test_a_notebook_with_outputs_in_the_last_commit_is_found_without_being_asked_for(repository):
    notebook = repository.root / "notebooks" / "01_baseline.ipynb"
    text = notebook.read_text(encoding="utf-8").replace(
        '"execution_count": null', '"execution_count": 3'
    )
    notebook.write_text(text, encoding="utf-8")
    repository.git("commit", "-q", "-a", "-m", "from a clone without set-up", "--no-verify")
    text, commands = mends(ask(repository), "git")
    assert "notebooks/01_baseline.ipynb holds outputs" in text
    assert any("git add --renormalize" in command for command in commands)


def test_an_environment_that_conda_solved_is_what_environment_yml_says(project, conda):
    rows = ask(project, python=conda["cpu"][0] / "bin" / "python")
    assert [row["state"] for row in rows["environment"]] == ["ok"], rows["environment"]
    assert "as environment.yml says" in rows["environment"][0]["found"][0]
    assert rows["python"][0]["state"] == "ok"


def test_an_environment_that_conda_solved_is_what_its_lock_says(project, conda):
    for name, lock in (("cpu", "conda-linux-64.lock"), ("gpu", "conda-linux-64-gpu.lock")):
        prefix, text = conda[name]
        if name == "gpu":  # as conda-lock writes it
            notes = [json.loads(path.read_text()) for path in prefix.glob("conda-meta/*.json")]
            text = "@EXPLICIT\n" + "".join(f"{one['url']}#{one['md5']}\n" for one in notes)
        (project.root / lock).write_text(text, encoding="utf-8")
        rows = ask(project, python=prefix / "bin" / "python")
        found = rows["environment"][0]
        assert (found["state"], found["found"][0].split("as ")[1]) == ("ok", f"{lock} says")


def test_the_doctor_names_what_is_missing_extra_and_other_than_the_lock(project, conda):
    prefix, text = conda["cpu"]
    lines = text.splitlines(keepends=True)
    spoilt = [line for line in lines if "/tqdm-" not in line]  # so tqdm is one too many
    text = "".join(spoilt).replace("numpy-2.4.6-", "numpy-2.4.5-")
    text = re.sub(rf"(torchvision-0\.28\.0-{BUILD})h0_0", r"\1h9_1", text)
    text = re.sub(r"(tyro-\S+#sha256:)\w{8}", r"\g<1>00000000", text)
    text += f"file:///x/noarch/einops-0.8.1-pyhd8ed1ab_0.conda#sha256:{'0' * 64}\n"
    (project.root / "conda-linux-64.lock").write_text(text, encoding="utf-8")
    rows = ask(project, python=prefix / "bin" / "python")
    wrong, commands = mends(rows, "environment")
    assert "einops is missing, not 0.8.1" in wrong
    assert "numpy is 2.4.6, not 2.4.5" in wrong
    assert f"torchvision 0.28.0 is build {BUILD}h0_0, not {BUILD}h9_1" in wrong
    assert "tyro 1.0.16 has another hash than in the lock" in wrong
    assert "conda install --file conda-linux-64.lock" in commands
    extra = [row for row in rows["environment"] if row["state"] == "note"]
    assert extra[0]["found"] == ["extra: tqdm 4.67.3"]


def test_without_a_lock_a_package_outside_environment_yml_is_named(project, conda):
    source = project.root / "environment.yml"
    text = source.read_text(encoding="utf-8").replace("numpy=2.4", "numpy=2.3")
    source.write_text(text.replace("tyro>=1.0", "einops>=0.8"), encoding="utf-8")
    rows = ask(project, python=conda["cpu"][0] / "bin" / "python")
    wrong, commands = mends(rows, "environment")
    assert wrong.splitlines() == [
        "numpy is 2.4.6, asked for: numpy=2.3",
        "einops is missing, asked for: einops>=0.8,<2",
    ]
    assert commands == ["conda env update --file environment.yml --prune"]


def test_what_environment_yml_hands_to_pip_is_missed_too(project, conda):
    source = project.root / "environment.yml"
    text = source.read_text(encoding="utf-8").rstrip() + "\n      - einops>=0.8\n"
    source.write_text(text, encoding="utf-8")
    found, _ = mends(ask(project, python=conda["cpu"][0] / "bin" / "python"), "environment")
    assert found == "einops is missing, asked for: einops>=0.8"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("numpy=2.4.*", None),
        ("numpy =2.4", None),
        (f"numpy 2.4.* {BUILD}*", None),
        ("numpy==2.4.6", None),
        ("conda-forge::numpy>=2,<3", None),
        (f"numpy=2.4={BUILD}h0_0", None),
        (f"numpy=*={BUILD}*", None),
        ("numpy", None),
        ("numpy 2.3", "numpy is 2.4.6, asked for: numpy 2.3"),
        ("libblas=*=*mkl", "libblas is missing, asked for: libblas=*=*mkl"),
        ("numpy[version='>=2.4']", None),
    ],
)
def test_whatever_way_conda_is_asked_for_a_package_the_others_are_compared(
    project, conda, asked, says
):
    source = project.root / "environment.yml"
    text = source.read_text(encoding="utf-8").replace("numpy=2.4", f"{asked}\n  - einops")
    source.write_text(text, encoding="utf-8")
    rows = ask(project, python=conda["cpu"][0] / "bin" / "python")["environment"]
    found = [text for row in rows for text in row["found"]]
    assert found == [*filter(None, [says]), "einops is missing, asked for: einops"]


def test_extras_markers_and_addresses_in_pyproject_toml_are_understood(project):
    source = project.root / "pyproject.toml"
    text = source.read_text(encoding="utf-8").replace(
        '"tqdm>=4.66,<5",',
        '"tqdm[notebook]>=4.66,<5", "pywin32; sys_platform == \'win32\'",'
        ' "einops @ git+https://example.org/einops",',
    )
    source.write_text(text, encoding="utf-8")
    text, _ = mends(ask(project), "environment")
    assert text == "einops is missing, asked for: einops @ git+https://example.org/einops"


def test_who_must_have_cuda_is_compared_with_the_file_that_asks_for_it(project, conda):
    source = project.root / "environment-gpu.yml"
    text = source.read_text(encoding="utf-8").replace("numpy=2.4", "numpy=2.3")
    source.write_text(text, encoding="utf-8")
    found, commands = mends(ask(project, python=conda["gpu"][0] / "bin" / "python"), "environment")
    assert found == "numpy is 2.4.6, asked for: numpy=2.3"
    assert commands == ["conda env update --file environment-gpu.yml --prune"]


@pytest.mark.slow
def test_a_virtual_environment_in_the_project_that_is_gone_is_missed(repository):
    scratch = repository.root / ".venv" / "bin"
    scratch.mkdir(parents=True)
    (scratch / "python").symlink_to(sys.executable)
    common = '"$(git rev-parse --git-common-dir)"'
    repository.lab("setup", check=True)
    value = f'p={common}/../.venv/bin/python; [ -x "$p" ] || p=python3; exec "$p" x'
    repository.git("config", "merge.notebook.driver", value)
    assert "merge.notebook.driver" not in mends(ask(repository), "git")[0]
    shutil.rmtree(repository.root / ".venv")
    text, commands = mends(ask(repository), "git")
    assert re.search(r"merge\.notebook\.driver names .*/\.venv/bin/python, which is gone", text)
    assert commands == ["lab setup"]


def test_another_clone_that_notebooks_would_import_is_noted(project, bake):
    other = bake(python_version=HERE)
    rows = ask(project, env={"PYTHONPATH": str(other.root / "src")})["python"]
    (found,) = [text for row in rows if row["state"] == "note" for text in row["found"]]
    assert f"notebooks find the package in {other.root}/src" in found
    assert [row["state"] for row in ask(project)["python"]] == ["ok"]


def test_a_package_from_git_is_missed_by_its_lock(project):
    line = "einops @ git+https://example.org/einops@0123abc\n"
    (project.root / "requirements.lock").write_text(line, encoding="utf-8")
    text, _ = mends(ask(project), "environment")
    assert "einops is missing, not git+https://example.org/einops@0123abc" in text


def test_what_development_needs_is_missed_by_pip_as_by_conda(project):
    source = project.root / "pyproject.toml"
    text = source.read_text(encoding="utf-8").replace('"pdoc>=', '"einops>=0.8", "pdoc>=')
    source.write_text(text, encoding="utf-8")
    text, commands = mends(ask(project), "environment")
    assert text == "einops is missing, asked for: einops>=0.8"
    assert commands == ['pip install -e ".[dev]"']


def test_what_pip_wrote_over_condas_package_is_put_back(project, prefix):
    site = next(prefix.glob("lib/python3*/site-packages"))
    (site / "tqdm-4.67.3.dist-info" / "METADATA").unlink()  # as pip install tqdm==4.66.0 does
    (site / "tqdm-4.67.3.dist-info").rename(site / "tqdm-4.66.0.dist-info")
    metadata = "Metadata-Version: 2.1\nName: tqdm\nVersion: 4.66.0\n"
    (site / "tqdm-4.66.0.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    (site / "tqdm" / "__init__.py").write_text("__version__ = '4.66.0'\n", encoding="utf-8")
    text, commands = mends(ask(project, python=prefix / "bin" / "python"), "environment")
    assert text == "installed files of tqdm were changed"
    assert commands == ["pip uninstall --yes tqdm && conda install --force-reinstall tqdm=4.67.3"]


def test_a_truncated_file_is_seen_at_once_and_a_changed_one_by_its_hash(project, prefix):
    python = prefix / "bin" / "python"
    file = next(prefix.glob("lib/python3*/site-packages/tqdm/__init__.py"))
    stamp = file.stat()
    content = file.read_bytes()
    file.write_bytes(content.replace(b"__version__", b"__vErsion__"))
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert mends(ask(project, python=python), "environment")[0] == ""
    text, commands = mends(ask(project, "--deep", python=python), "environment")
    assert "installed files of tqdm were changed" in text
    assert commands == ["conda install --force-reinstall tqdm=4.67.3"]
    file.write_bytes(content[:5])
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert "tqdm were changed" in mends(ask(project, python=python), "environment")[0]


def test_another_python_than_the_projects_is_named(bake, conda):
    another = "3.13" if HERE == "3.12" else "3.12"
    other = bake(python_version=another)
    rows = ask(other, python=conda["cpu"][0] / "bin" / "python")
    assert rows["python"][0]["found"][0].startswith(f"{HERE}.")
    text, commands = mends(rows, "environment")
    assert text == f"python is {HERE}.7, asked for: python={another}"
    assert commands == ["conda env update --file environment.yml --prune"]


def test_a_lock_for_pip_is_compared_with_what_pip_installed(project):
    digest = f" \\\n    --hash=sha256:{'0' * 64}\n"
    lines = ["numpy==2.4.0", "einops==0.8.1 ; sys_platform != 'win32'"]
    lines += ["pywin32==311 ; sys_platform == 'win32'"]
    lock = project.root / "requirements.lock"
    lock.write_text("".join(f"{line}{digest}" for line in lines), encoding="utf-8")
    rows = ask(project)
    text, commands = mends(rows, "environment")
    assert re.search(r"numpy is 2\.\S+, not 2\.4\.0", text)
    assert "einops is missing, not 0.8.1" in text
    assert "pywin32" not in text
    assert commands[0] == "pip install --require-hashes -r requirements.lock"
    assert "lab lock" in commands, "the lock was not made from this pyproject.toml"
    extra = next(row for row in rows["environment"] if row["state"] == "note")
    assert any(text.startswith("extra: torch 2.") for text in extra["found"])
    assert not any(text.startswith("extra: pip ") for text in extra["found"])


def test_a_build_for_another_gpu_that_pip_takes_for_the_locked_one_is_told(project, tmp_path):
    info = tmp_path / "einops-0.8.1+cpu.dist-info"
    info.mkdir()
    text = "Metadata-Version: 2.1\nName: einops\nVersion: 0.8.1+cpu\n"
    (info / "METADATA").write_text(text, encoding="utf-8")
    (project.root / "requirements.lock").write_text("einops==0.8.1\n", encoding="utf-8")
    path = f"{project.root / 'src'}{os.pathsep}{tmp_path}"
    rows = ask(project, env={"PYTHONPATH": path})["environment"]
    assert ("note", "einops is 0.8.1+cpu, not 0.8.1") in [(r["state"], r["found"][0]) for r in rows]
    assert not any(
        "einops" in text for row in rows if row["state"] == "mend" for text in row["found"]
    )


@pytest.mark.parametrize("content", [b"\xdd\x00", b"<<<<<<< HEAD\n=======\n>>>>>>> theirs\n", b""])
def test_a_broken_lock_is_to_be_written_anew(project, content):
    (project.root / "requirements.lock").write_bytes(content)
    text, commands = mends(ask(project), "environment")
    assert text == "requirements.lock is older than pyproject.toml"
    assert commands == ["lab lock"]
    assert project.lab("lock", "--check").returncode == 1


def smi(folder, does="echo 'NVIDIA A100-SXM4-80GB, 550.54'"):
    """Stand in for the driver's program, on a machine without a card."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
    program.chmod(0o755)
    return folder


def test_a_cpu_build_on_a_gpu_machine_is_the_classic(project, conda, tmp_path):
    python = conda["cpu"][0] / "bin" / "python"
    env = {"PATH": f"{smi(tmp_path)}:{python.parent}:/usr/bin:/bin"}
    text, commands = mends(ask(project, python=python, env=env), "gpu")
    assert "torch 2.13.0 is a CPU build" in text
    assert "NVIDIA A100-SXM4-80GB, driver 550.54" in text
    assert commands == ["conda env update --file environment-gpu.yml"]


def test_a_driver_that_the_cuda_build_cannot_use_is_named(project, conda, tmp_path):
    python = conda["gpu"][0] / "bin" / "python"
    env = {"PATH": f"{smi(tmp_path)}:{python.parent}:/usr/bin:/bin"}
    text, _ = mends(ask(project, python=python, env=env), "gpu")
    assert "torch 2.13.0 for CUDA 12.9 cannot use NVIDIA A100-SXM4-80GB, driver 550.54" in text


def test_on_a_gpu_machine_a_torch_that_cannot_be_imported_says_why(project, prefix, tmp_path):
    torch = next(prefix.glob("lib/python3*/site-packages/torch/__init__.py"))
    torch.write_text("raise ImportError('libcudart.so.13: not found')\n", encoding="utf-8")
    python = prefix / "bin" / "python"
    env = {"PATH": f"{smi(tmp_path)}:{python.parent}:/usr/bin:/bin"}
    text, _ = mends(ask(project, python=python, env=env), "gpu")
    assert text == "torch cannot be imported: ImportError: libcudart.so.13: not found"


def test_a_kernel_of_this_environment_that_starts_another_is_installed_anew(project, prefix):
    spec = prefix / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/where/it/was/bin/python"]}), encoding="utf-8")
    text, commands = mends(ask(project, python=prefix / "bin" / "python"), "kernel")
    assert "starts /where/it/was/bin/python" in text
    assert commands == ["python -m ipykernel install --sys-prefix"]


def test_a_broken_source_is_a_finding_and_the_other_checks_go_on(project):
    (project.root / "pyproject.toml").write_text("[project\n", encoding="utf-8")
    rows = ask(project)
    assert "pyproject.toml cannot be read" in mends(rows, "environment")[0]
    assert rows["kernel"][0]["state"] == "ok"


def test_without_the_environment_the_doctor_says_that_it_is_not_active(project, tmp_path):
    project.run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare", check=True)
    python = tmp_path / "bare" / "bin" / "python"
    done = project.run(python, "-m", f"{project.package}.lab.cli", "doctor")
    assert done.returncode == 2
    assert re.search(r"^lab: No module named '\w+': activate the project's env", done.stderr)
    assert "Traceback" not in done.stderr


def test_a_release_candidate_is_as_good_as_its_number(project, tmp_path):
    info = tmp_path / "einops-0.9.0rc1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: einops\nVersion: 0.9.0rc1\n", encoding="utf-8")
    source = project.root / "pyproject.toml"
    text = source.read_text(encoding="utf-8").replace('"tqdm>=', '"einops>=0.8", "tqdm>=')
    source.write_text(text, encoding="utf-8")
    env = {"PYTHONPATH": f"{project.root / 'src'}{os.pathsep}{tmp_path}"}
    assert mends(ask(project, env=env), "environment")[0] == ""
