"""`lab doctor` on what a machine is like: its card, cores, disk, data and kernels."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from test_doctor import VENV, ask, mends, pristine, smi  # noqa: F401 (a fixture)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "state"), [("7, 0", "mend"), ("8, 6", "ok"), ("9, 0", "ok")]
)
def test_a_card_that_torch_was_not_built_for_is_named(project, tmp_path, capability, state):
    (tmp_path / "torch.py").write_text(
        "__version__ = '2.14.1+cu130'\nclass version:\n    cuda = '13.0'\nclass cuda:\n"
        "    is_available = staticmethod(lambda: True)\n"
        f"    get_device_capability = staticmethod(lambda: ({capability}))\n"
        "    get_arch_list = staticmethod(lambda: ['sm_75', 'sm_80', 'sm_90a', 'compute_90'])\n"
    )
    env = {"PATH": f"{smi(tmp_path)}:/usr/bin:/bin", "PYTHONPATH": f"{project.root}/src:{tmp_path}"}
    (row,) = ask(project, env=env)["gpu"]
    assert row["state"] == state
    assert ("--torch-backend=cu126" in row["found"][0]) == (state == "mend")


def test_a_driver_that_does_not_answer_is_named_and_not_torch(project, tmp_path):
    said = "Failed to initialize NVML: Driver/library version mismatch"
    path = f"{smi(tmp_path, f'echo {said!r}; exit 18')}:/usr/bin:/bin"
    text, commands = mends(ask(project, env={"PATH": path}), "gpu")
    assert text == f"the NVIDIA driver does not answer: {said}"
    assert commands == ["nvidia-smi  # often: reboot"]


def test_a_driver_that_hangs_does_not_hang_the_doctor(project, tmp_path):
    code = (
        "from pathlib import Path\n"
        f"from {project.package}.lab import doctor\n"
        "doctor.PATIENCE = 0.5\n"
        "doctor.doctor(Path.cwd(), False, False)"
    )
    env = {"PATH": f"{smi(tmp_path, 'exec sleep 30')}:/usr/bin:/bin"}
    done = project.python("-c", code, env=env, check=True)
    assert re.search(r"mend gpu +this check could not run: .*nvidia-smi.* timed out", done.stdout)
    assert "kernel" in done.stdout, "the other checks go on"


def test_more_threads_than_cores_are_mended_by_a_variable(project):
    text, commands = mends(ask(project, env={"OMP_NUM_THREADS": "999"}), "threads")
    assert "999 threads" in text
    assert re.fullmatch(r"export OMP_NUM_THREADS=\d+", commands[0])


@pytest.mark.parametrize("given", ["", "1,999"])
def test_an_empty_number_of_threads_is_none_and_of_several_the_first_counts(project, given):
    assert ask(project, env={"OMP_NUM_THREADS": given})["threads"][0]["state"] == "ok"


def test_a_share_of_cores_that_a_service_was_given_is_seen(project):
    group = Path(f"/sys/fs/cgroup/cpu/lab-doctor-{os.getpid()}")
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no cgroups of one's own here")
    try:
        (group / "cpu.cfs_quota_us").write_text("100000", encoding="ascii")
        join = f"echo $$ > {group}/cgroup.procs && exec {sys.executable} -m"
        argv = ("sh", "-c", f"{join} {project.package}.lab.cli doctor --json")
        done = project.run(*argv, env={"OMP_NUM_THREADS": "2"})
    finally:
        group.rmdir()
    row = next(row for row in json.loads(done.stdout) if row["check"] == "threads")
    assert row["mend"] == "export OMP_NUM_THREADS=1"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "200000 100000\n"}, "2"),
        ({"cpu.max": "50000 100000\n"}, "1"),
        ({"cpu.max": "max 100000\n"}, "inf"),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4"),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "inf"),
        ({}, "inf"),
    ],
)
def test_a_containers_share_of_cores_is_read_from_its_cgroup(project, tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text, encoding="ascii")
    code = (
        f"from pathlib import Path; from {project.package}.lab.doctor import _quota;"
        f"print(_quota(Path({str(tmp_path / 'groups')!r})))"
    )
    assert project.python("-c", code, check=True).stdout.strip() == cores


def test_a_full_disk_is_told_before_a_run_fails_on_it(project, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    script = (
        f"mount -t tmpfs -o size=64m small {small} && cp -r {project.root} {small}/project"
        f" && cd {small}/project && {sys.executable} -m {project.package}.lab.cli doctor --json"
    )
    done = project.run("unshare", "--mount", "sh", "-c", script)
    if not done.stdout:
        pytest.skip("no mounts of one's own here")
    row = next(row for row in json.loads(done.stdout) if row["check"] == "disk")
    assert (row["state"], row["found"]) == ("mend", ["0.1 GB free"])


def test_data_sets_that_are_here_are_named(project):
    (project.root / "data" / "cifar-10-batches-py").mkdir(parents=True)
    found = ask(project)["data"][0]["found"][0]
    assert found == "digits (built in), cifar10; fetched when first asked for: fashion_mnist"


def test_a_kernel_of_another_environment_is_the_other_classic(project, tmp_path):
    spec = tmp_path / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/opt/other/bin/python"]}), encoding="utf-8")
    text, commands = mends(ask(project, env={"JUPYTER_PATH": str(tmp_path)}), "kernel")
    assert "starts /opt/other/bin/python, of another environment" in text
    assert commands == ["python -m jupyter kernelspec remove python3"]
    env = {"JUPYTER_PATH": str(tmp_path), "HOME": str(tmp_path)}
    project.run(sys.executable, *commands[0].split()[1:], "-y", env=env, check=True)
    assert ask(project, env=env)["kernel"][0]["state"] == "ok", "the command mends it"


def test_an_environment_that_is_reached_by_a_link_is_the_same(project, tmp_path):
    (tmp_path / "home").symlink_to(VENV.parent)
    path = f"{tmp_path / 'home' / 'bin'}:/usr/bin:/bin"
    assert ask(project, env={"PATH": path})["kernel"][0]["state"] == "ok"


def test_a_jupyter_of_another_environment_on_the_path_is_named(project, tmp_path):
    (tmp_path / "jupyter").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "jupyter").chmod(0o755)
    path = f"{tmp_path}:{VENV}:/usr/bin:/bin"
    text, commands = mends(ask(project, env={"PATH": path}), "kernel")
    assert f"`jupyter` is {tmp_path}/jupyter, of another environment" in text
    assert commands == ["python -m jupyter lab"]
