"""What a researcher's own files call of the template's, which `cruft update` replaces under them.

Where this changes, an update stops their `train.py` or notebooks. So: raise `_version` in
cookiecutter.json, write in CHANGELOG.md under *By hand* what to change, and then
`python tests/test_interface.py` writes the snapshot anew.
"""

import ast
import json
import tempfile
import tomllib
from pathlib import Path

from conftest import TEMPLATE, Project
from cookiecutter.main import cookiecutter

SNAPSHOT = Path(__file__).with_name("interface.txt")


def theirs(project: Project) -> list[Path]:
    """List the Python files that updates leave alone, and what new notebooks are made of."""
    skip = tomllib.loads((project.root / "pyproject.toml").read_text())["tool"]["cruft"]["skip"]
    found = [path for name in skip for path in sorted((project.root / name).rglob("*.py"))]
    found += [project.root / name for name in skip if name.endswith(".py")]
    return [*found, project.root / "src" / project.package / "lab" / "skeleton.txt"]


def imported(project: Project, path: Path) -> set[tuple[str, str | None]]:
    """Return module, within the package, and name (None: the whole module) of each import.

    Of a whole module also what the file names of it.
    """
    package = project.root / "src" / project.package
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("%", "!"))]
    found, tree = set(), ast.parse("\n".join(lines))
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = (node.module or "").split(".")
        if not node.level and parts.pop(0) != project.package:
            continue
        for alias in node.names:
            module = "/".join([*filter(None, parts), alias.name])
            whole = (package / f"{module}.py").exists()
            found.add((module, None) if whole else ("/".join(filter(None, parts)), alias.name))
            for used in ast.walk(tree) if whole else ():
                of = getattr(used, "value", None)
                if isinstance(used, ast.Attribute) and isinstance(of, ast.Name):
                    found |= (
                        {(module, used.attr)} if of.id == (alias.asname or alias.name) else set()
                    )
    return found


def signatures(tree: ast.AST, name: str | None, prefix: str) -> list[str]:
    """Write the public functions, methods and fields of a module's `name`, or of all in it."""
    lines = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            wanted = node.name == name if name else not node.name.startswith("_")
            if node.name == "__init__" and not name:
                wanted = True
            if wanted and isinstance(node, ast.FunctionDef):
                lines.append(f"{prefix}{node.name}({ast.unparse(node.args)})")
            elif wanted:
                lines += signatures(node, None, f"{prefix}{node.name}.")
        elif isinstance(node, ast.AnnAssign) and isinstance(tree, ast.ClassDef):
            lines.append(f"{prefix}{ast.unparse(node)}")
    return lines


def interface(project: Project) -> str:
    """Write the version and all that their files import."""
    package = project.root / "src" / project.package
    names = {one for path in theirs(project) for one in imported(project, path)}
    lines = []
    for module, name in sorted(names, key=str):
        path = package / f"{module}.py"
        if path not in theirs(project):
            found = signatures(ast.parse(path.read_text()), name, f"{module.replace('/', '.')}.")
            lines += found or [
                f"{module.replace('/', '.')}.{name}"
            ]  # a constant, or from elsewhere
    version = json.loads((TEMPLATE / "cookiecutter.json").read_text())["_version"]
    return "\n".join([version, *sorted(set(lines))]) + "\n"


def test_what_a_researchers_files_call_stays_while_the_version_does(pristine):
    text = interface(pristine)
    for name in ("lab.records.Record.create(", "distributed.World.wrap(", "figures.samples("):
        assert name in text
    missing = set(SNAPSHOT.read_text().splitlines()) - set(text.splitlines())
    assert not missing, f"{missing}\n{__doc__}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = cookiecutter(str(TEMPLATE), no_input=True, output_dir=folder)
        SNAPSHOT.write_text(interface(Project(Path(made))))
