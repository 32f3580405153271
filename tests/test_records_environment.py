"""What a record says of its environment: enough to explain a difference, and no secret."""

import json
from pathlib import Path

import pytest

CAPTURE = """
import json, resource, sys, time
from pathlib import Path
if "torch" in sys.argv:
    import torch
from {package}.lab import environment, code
def used():
    both = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(sum(resource.getrusage(who)[:2]) for who in both)
started = used()
code.capture(Path.cwd(), [])
found = environment.capture(1, 1, "cpu")
print(json.dumps([used() - started, found]))
"""


def capture(project, *argv, **options):
    done = project.python(
        "-c", CAPTURE.format(package=project.package), *argv, check=True, **options
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_every_package_is_named_with_version_and_manager(repository):
    import importlib.metadata

    _, found = capture(repository)
    listed = {one["name"]: one for one in found["packages"]}
    assert listed["numpy"]["version"] == importlib.metadata.version("numpy")
    assert {one["manager"] for one in listed.values()} == {"pip"}
    assert found["cpu"]["model"]
    assert found["python"]


@pytest.mark.torch
def test_recording_takes_less_than_half_a_second(repository):
    seconds = min(capture(repository, "torch")[0] for _ in range(3))
    assert seconds < 0.5


@pytest.mark.torch
def test_what_numbers_depend_on_is_recorded(repository):
    _, found = capture(repository, "torch")
    assert found["blas"]
    assert found["cpu_capability"]
    assert found["threads"] == found["world_size"] == 1


def test_only_stated_variables_are_recorded(repository):
    env = {"OMP_NUM_THREADS": "3", "WANDB_API_KEY": "hunter2", "AWS_SECRET_ACCESS_KEY": "hunter2",
           "TZ": "Asia/Tokyo", "MKL_CBWR": "COMPATIBLE"}  # fmt: skip
    _, found = capture(repository, env=env)
    assert found["variables"]["OMP_NUM_THREADS"] == "3"
    assert found["variables"]["MKL_CBWR"] == "COMPATIBLE"
    assert found["settings"]["TZ"] == "Asia/Tokyo"
    assert "hunter2" not in json.dumps(found)


CONDA = """
import json, sys
sys.prefix = {prefix!r}
from {package}.lab import environment
print(json.dumps([environment.packages(), environment.damaged(True)]))
"""


@pytest.mark.slow
def test_condas_packages_come_with_channel_build_address_and_hash(repository, tmp_path):
    meta = tmp_path / "conda-meta"
    meta.mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_text("changed\n")
    url = "https://ada:pw@conda.example.org/t/tk-12345/main/linux-64/numpy-9.9-h1.conda"
    note = {
        "name": "numpy", "version": "9.9", "build": "h1", "channel": "main", "subdir": "linux-64",
        "url": url, "sha256": "0" * 64, "md5": "1" * 32,
        "files": ["lib/python3.11/site-packages/x/METADATA", "bin/tool"],
        "paths_data": {"paths": [{"_path": "bin/tool", "path_type": "hardlink",
                                  "sha256": "2" * 64}]},
    }  # fmt: skip
    (meta / "numpy-9.9-h1.json").write_text(json.dumps(note))
    (meta / "history").write_text("")
    (meta / "broken-1-0.json").write_text("{")
    script = CONDA.format(prefix=str(tmp_path), package=repository.package)
    done = repository.python("-c", script, check=True)
    packages, damaged = json.loads(done.stdout.splitlines()[-1])
    conda = next(one for one in packages if one["manager"] == "conda")
    assert conda["url"] == "https://conda.example.org/main/linux-64/numpy-9.9-h1.conda"
    assert (conda["build"], conda["sha256"]) == ("h1", "0" * 64)
    assert [(name, Path(path).name, what) for name, path, what in damaged] == [
        ("numpy", "tool", "changed")
    ]


DIFFERENCES = """
import json, sys
from {package}.lab import environment
print(json.dumps(environment.differences(*json.loads(sys.argv[1]))))
"""


def test_differences_come_by_cause(repository):
    numpy = [{"name": "NumPy", "version": "1"}, {"name": "numpy", "version": "2"}]
    old = {"threads": 1, "cpu": {"model": "A"}, "packages": numpy[:1], "device": "cpu"}
    new = {"threads": 2, "cpu": {"model": "B"}, "packages": numpy[1:], "device": "cuda"}
    old |= {"variables": {}, "settings": {"TZ": "UTC"}}
    new |= {"variables": {"MKL_CBWR": "X"}, "settings": {}}
    script = DIFFERENCES.format(package=repository.package)
    found = json.loads(repository.python("-c", script, json.dumps([old, new]), check=True).stdout)
    assert found["packages"] == ["numpy: 1 -> 2"]
    assert found["threads"] == ["threads: 1 -> 2"]
    assert found["hardware"] == ["device: cpu -> cuda", "CPU model: A -> B"]
    assert found["variables"] == ["MKL_CBWR: none -> X"]
    assert found["settings"] == ["TZ: UTC -> none"]
    assert not json.loads(repository.python("-c", script, json.dumps([old, old])).stdout)
