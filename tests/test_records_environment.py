"""What a record says of its environment: enough to explain a difference, and no secret."""

import hashlib
import json
import sys
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
sys.path = []  # else pip's packages are hashed, for half a minute
print(json.dumps([environment.packages(), environment.damaged(True)]))
"""


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
                                  "sha256": "2" * 64},
                                 {"_path": "site-packages/empty.py",
                                  "sha256": hashlib.sha256(b"").hexdigest()}]},
    }  # fmt: skip
    (meta / "numpy-9.9-h1.json").write_text(json.dumps(note))
    site = tmp_path / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
    site.mkdir(parents=True)
    (site / "empty.py").touch()
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
    built = [{"name": "mkl", "version": "1", "build": build} for build in ("h1", "h2")]
    own = [{"name": "lab", "version": version, "editable": True} for version in ("1", "2")]
    old = {"threads": 1, "cpu": {"model": "A"}, "packages": numpy[:1], "device": "cpu"}
    new = {"threads": 2, "cpu": {"model": "B"}, "packages": numpy[1:], "device": "cuda"}
    for number, one in enumerate((old, new)):
        one["packages"] += [built[number], own[number]]
        one["cpu"]["instructions"] = ["avx2", "fma"][: number + 1]
        one["blas"] = ("mkl", "openblas")[number]
    new["edited"] = [{"file": "x.py", "sha256": "0" * 64}]
    old |= {"variables": {}, "settings": {"TZ": "UTC"}}
    new |= {"variables": {"MKL_CBWR": "X"}, "settings": {}}
    script = DIFFERENCES.format(package=repository.package)
    found = json.loads(repository.python("-c", script, json.dumps([old, new]), check=True).stdout)
    assert found["packages"] == ["mkl: 1 h1 -> 1 h2", "numpy: 1 -> 2"]
    assert found["edited libraries"] == ["x.py: as installed -> edited (000000000000)"]
    assert found["threads"] == ["threads: 1 -> 2"]
    assert found["hardware"] == ["device: cpu -> cuda", "blas: mkl -> openblas", "CPU model: A -> B",
                                 "CPU instructions: ['avx2'] -> ['avx2', 'fma']"]  # fmt: skip
    assert found["variables"] == ["MKL_CBWR: none -> X"]
    assert found["settings"] == ["TZ: UTC -> none"]
    assert not json.loads(repository.python("-c", script, json.dumps([old, old])).stdout)


def test_a_package_is_named_as_it_is_imported_with_its_commit_and_no_token(repository, tmp_path):
    for folder, version in (("first", "2.0"), ("second", "1.0")):
        info = tmp_path / folder / f"tiny-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: tiny\nVersion: {version}\n")
        source = {"url": "https://ada:pass@example.org/tiny", "vcs_info": {"commit_id": "abc"}}
        (info / "direct_url.json").write_text(json.dumps(source))
    path = f"{repository.env['PYTHONPATH']}:{tmp_path / 'first'}:{tmp_path / 'second'}"
    _, found = capture(repository, env={"PYTHONPATH": path})
    (tiny,) = [one for one in found["packages"] if one["name"] == "tiny"]
    assert (tiny["version"], tiny["source"]) == ("2.0", "git+https://example.org/tiny@abc")
