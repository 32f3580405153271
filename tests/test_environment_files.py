"""`environment.yml` solved by conda's solver, and its agreement with everything beside it."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from conda_channel import MACHINES, PYTHONS, build_channel, pinned, read_environment, solve_on
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

CONDA_NAMES = {  # on PyPI: in conda-forge, where they differ
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "typst": "typst-py",
    "pypandoc-binary": "pandoc",
}
ONLY_CONDA = {"python", "pip"}
COUNTS = ("python", "pytorch", "torchvision", "numpy", "scikit-learn")
FILES = ("environment.yml", "environment-gpu.yml")


@pytest.fixture(scope="session")
def channel(tmp_path_factory):
    return build_channel(tmp_path_factory.mktemp("channel"))


@pytest.fixture(scope="session", params=PYTHONS)
def baked(request, bake):
    return bake(python_version=request.param)


def dependencies(root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = project["dependencies"] + project["optional-dependencies"]["dev"]
    return {canonicalize_name(one.name): one.specifier for one in map(Requirement, stated)}


def test_every_machine_gets_the_build_that_it_can_run(baked, channel):
    specs, _ = read_environment(baked.root / "environment.yml")
    builds = {}
    for machine in MACHINES:
        records, seconds = solve_on(machine, specs, channel)
        assert seconds < 5
        assert records["pytorch"]["version"].startswith(pinned(specs, "pytorch"))
        assert records["python"]["version"].startswith(f"{pinned(specs, 'python')}.")
        builds[machine] = records["pytorch"]["build"].split("_")[0]
    assert builds == {
        "linux-64": "cpu",
        "linux-64 with a GPU": "cuda129",
        "linux-64 with a new GPU": "cuda130",
        "osx-arm64": "cpu",
    }


def test_who_must_have_cuda_gets_it(baked, channel):
    specs, _ = read_environment(baked.root / "environment-gpu.yml")
    records, seconds = solve_on("linux-64 with a GPU", specs, channel)
    assert seconds < 5
    assert records["pytorch"]["build"].startswith("cuda")
    assert records["pytorch"]["version"].startswith(pinned(specs, "pytorch-gpu"))


@pytest.mark.parametrize("machine", ["linux-64", "osx-arm64"])
def test_who_must_have_cuda_fails_loudly_without_it(baked, channel, machine):
    specs, _ = read_environment(baked.root / "environment-gpu.yml")
    with pytest.raises(ValueError, match="pytorch-gpu"):
        solve_on(machine, specs, channel)


def test_both_environment_files_ask_for_the_same_but_pytorch(pristine):
    cpu, gpu = (read_environment(pristine.root / name) for name in FILES)
    assert [spec.replace("pytorch=", "pytorch-gpu=") for spec in cpu[0]] == gpu[0]
    assert cpu[1] == gpu[1] == ["-e ."]
    named = [yaml.safe_load((pristine.root / name).read_text(encoding="utf-8")) for name in FILES]
    assert [one["name"] for one in named] == ["digits-lab"] * 2
    assert [one["channels"] for one in named] == [["conda-forge"]] * 2


def test_what_can_change_a_number_is_pinned_to_the_minor_version(pristine):
    specs, _ = read_environment(pristine.root / "environment.yml")
    for name in COUNTS:
        assert re.fullmatch(r"\d+\.\d+", pinned(specs, name)), name


def test_conda_and_pip_ask_for_the_same_packages(pristine):
    specs, _ = read_environment(pristine.root / "environment.yml")
    conda = {re.match(r"[\w.-]+", spec)[0] for spec in specs}
    pip = {CONDA_NAMES.get(name, name) for name in dependencies(pristine.root)}
    assert pip == conda - ONLY_CONDA


def test_the_ranges_for_pip_hold_what_conda_installs(baked, channel):
    specs, _ = read_environment(baked.root / "environment.yml")
    for machine in MACHINES:
        records, _ = solve_on(machine, specs, channel)
        for name, allowed in dependencies(baked.root).items():
            if name == "pypandoc-binary":  # numbered apart from the pandoc in it
                continue
            version = records[CONDA_NAMES.get(name, name)]["version"]
            assert allowed.contains(version), f"pip would replace conda's {name} {version}"


def test_the_ranges_for_pip_hold_what_the_tests_run_with(pristine):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    here = dict(line.split("==") for line in done.stdout.splitlines() if "==" in line)
    here = {canonicalize_name(name): version for name, version in here.items()}
    for name, allowed in dependencies(pristine.root).items():
        assert allowed.contains(here[name]), f"{name} {here[name]}"


def test_pins_and_ranges_say_the_same_of_looser_tools(pristine):
    specs, _ = read_environment(pristine.root / "environment.yml")
    conda = dict(re.match(r"([\w.-]+)(.*)", spec).groups() for spec in specs)
    for name, allowed in dependencies(pristine.root).items():
        versions = conda[CONDA_NAMES.get(name, name)]
        if not versions.startswith("=") and name != "pypandoc-binary":
            assert SpecifierSet(versions) == allowed, name


def test_every_file_names_the_same_python(baked):
    asked = pinned(read_environment(baked.root / "environment.yml")[0], "python")
    gpu = pinned(read_environment(baked.root / "environment-gpu.yml")[0], "python")
    stated = tomllib.loads((baked.root / "pyproject.toml").read_text(encoding="utf-8"))
    docker = re.findall(r"python=([\d.]+)", (baked.root / "Dockerfile").read_text("utf-8"))
    readme = re.findall(r"[Pp]ython[ =]?(3\.\d+)", (baked.root / "README.md").read_text("utf-8"))
    assert gpu == asked
    assert stated["project"]["requires-python"] == f">={asked}"
    assert set(docker) == {asked}
    assert set(readme) == {asked}
    for workflow in (baked.root / ".github" / "workflows").glob("*.yml"):
        said = re.findall(r"python-version: *[\"']?([\d.]+)", workflow.read_text("utf-8"))
        assert set(said) <= {asked}, workflow.name


def test_the_readme_activates_the_environment_that_the_files_name(bake):
    project = bake(project_slug="other-name")
    readme = (project.root / "README.md").read_text(encoding="utf-8")
    named = [yaml.safe_load((project.root / name).read_text("utf-8"))["name"] for name in FILES]
    assert set(re.findall(r"(?:conda activate|--name) ([\w.-]+)", readme)) == set(named)
    assert set(named) == {"other-name"}


def test_four_commands_lead_from_the_readme_to_the_first_report(pristine):
    readme = (pristine.root / "README.md").read_text(encoding="utf-8")
    conda, pip = (block.split("\n") for block in re.findall(r"(?m)^```\n([^`]+)\n```", readme)[:2])
    assert conda[:2] == ["conda env create -f environment.yml", "conda activate digits-lab"]
    assert conda[3] == "lab report 01_baseline"
    assert pip[:2] == ["python3 -m venv .venv", '.venv/bin/pip install -e ".[dev]"']
    assert pip[3] == ".venv/bin/lab report 01_baseline"
    assert not re.search(r"[<>]|YOUR|path/to", "".join(conda[:4] + pip[:4]))


def test_a_package_that_does_not_exist_and_pins_that_exclude_each_other_are_refused(channel):
    for specs in (["python=3.11", "nmupy=2.4"], ["pytorch=2.12", "torchvision=0.28"]):
        with pytest.raises(ValueError, match=r"nmupy|torchvision"):
            solve_on("linux-64", specs, channel)
