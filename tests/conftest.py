"""Bakes projects and uses them as people do: by their commands, files and exit codes."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).resolve().parent.parent
# A shell starts its background jobs deaf to Ctrl-C, and their children inherit it: tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Begin with Slurm, whose tests mostly wait: the other worker computes meanwhile."""
    items.sort(key=lambda item: "slurm" not in item.keywords)


@dataclass
class Project:
    """A generated project and the commands that its user types."""

    root: Path

    @property
    def package(self) -> str:
        """The import name of its package."""
        return next((self.root / "src").glob("*/lab")).parent.name

    @property
    def env(self) -> dict[str, str]:
        """The environment in which the project's own code is imported."""
        return {
            **os.environ,
            "PYTHONPATH": str(self.root / "src"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Ada",
            "GIT_AUTHOR_EMAIL": "ada@example.org",
            "GIT_COMMITTER_NAME": "Ada",
            "GIT_COMMITTER_EMAIL": "ada@example.org",
        }

    def run(self, *argv, check=False, cwd=None, env=None, timeout=600, **options):
        """Run a program in the project."""
        done = subprocess.run(
            [str(part) for part in argv],
            cwd=cwd or self.root,
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
            **options,
        )
        if check:
            assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
        return done

    def module(self, name: str):
        """Import a module of its package into this process, which spares half a second."""
        sys.path.insert(0, str(self.root / "src"))
        try:
            return importlib.import_module(f"{self.package}.{name}")
        finally:
            sys.path.pop(0)

    def python(self, *arguments, **options):
        """Run python."""
        return self.run(sys.executable, *arguments, **options)

    def lab(self, *arguments, **options):
        """Run `lab`."""
        return self.python("-m", f"{self.package}.lab.cli", *arguments, **options)

    def train(self, *arguments, **options):
        """Run `python train.py`."""
        return self.python(self.root / "train.py", *arguments, **options)

    def own_tests(self):
        """Run the project's own tests, with no plugin that only the template's tests need.

        rerunfailures keeps a socket and a thread, and a project takes warnings for errors.
        """
        plugins = ("-p", "no:cacheprovider", "-p", "no:rerunfailures", "-p", "no:xdist")
        done = self.python("-m", "pytest", "-q", *plugins, env={"PYTEST_ADDOPTS": ""})  # CI's
        assert done.returncode == 0, done.stdout + done.stderr

    def git(self, *arguments, check=True, **options):
        """Run git; unlike the others it must succeed unless told otherwise."""
        return self.run("git", *arguments, check=check, **options)

    def runs(self) -> list[Path]:
        """The folders in `runs/`, oldest first."""
        return sorted(path for path in (self.root / "runs").glob("2*") if path.is_dir())


@pytest.fixture(scope="session")
def bake(tmp_path_factory):
    """Generate a project from answers."""

    def make(**answers) -> Project:
        folder = tmp_path_factory.mktemp("bake")
        made = cookiecutter(
            str(TEMPLATE),
            no_input=True,
            extra_context=answers,
            output_dir=str(folder),
            config_file=os.devnull,
        )
        return Project(Path(made))

    return make


@pytest.fixture(scope="session")
def pristine(bake) -> Project:
    """The default bake; nobody writes to it."""
    return bake()


@pytest.fixture
def project(pristine, tmp_path) -> Project:
    """A fresh copy of the default bake, not yet a git repository."""
    root = tmp_path / pristine.root.name
    shutil.copytree(pristine.root, root, symlinks=True)
    return Project(root)


def commit_all(project: Project) -> Project:
    """Make the project a repository with one commit."""
    project.git("init", "-q", "-b", "main")
    project.git("add", "-A")
    project.git("commit", "-q", "-m", "start", "--no-verify")
    return project


@pytest.fixture
def repository(project) -> Project:
    """A fresh copy with everything committed, without hooks."""
    return commit_all(project)


@pytest.fixture(scope="session")
def trained(pristine, tmp_path_factory) -> Project:
    """A repository with one finished run of two epochs on the digits; nobody writes to it."""
    root = tmp_path_factory.mktemp("trained") / pristine.root.name
    shutil.copytree(pristine.root, root, symlinks=True)
    made = commit_all(Project(root))
    made.train("--epochs", "2", check=True)
    return made


@pytest.fixture(scope="session")
def research(pristine) -> SimpleNamespace:
    """Import the modules that a researcher's notebook imports, into this process."""
    names = ("batches", "config", "data", "models", "seeding")
    return SimpleNamespace(root=pristine.root, **{name: pristine.module(name) for name in names})


@pytest.fixture(scope="module")
def equipped(pristine, tmp_path_factory) -> Project:
    """A project with its filter, hooks and one pair of notebooks; nobody writes to it."""
    from notebook_pairs import equipped_copy  # which needs this file

    return equipped_copy(pristine, tmp_path_factory.mktemp("equipped"))


@pytest.fixture
def pair(equipped, tmp_path):
    """Both halves of a notebook, in a fresh copy of an equipped project."""
    from notebook_pairs import Pair, copy_of

    return Pair(copy_of(equipped, tmp_path))
