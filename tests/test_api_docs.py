"""The docstrings: complete by numpydoc's own validator, and built into pages by one command."""

import ast
import re
from pathlib import Path

import pytest
from numpydoc.hooks.validate_docstrings import process_file

CHECKS = {  # https://numpydoc.readthedocs.io/en/latest/validation.html
    "GL05",  # tabs
    "GL06",  # unknown section
    "GL07",  # order of the sections
    "GL08",  # no docstring
    "PR01",  # parameter without a word
    "PR02",  # a word about no parameter
    "PR03",  # order of the parameters
    "PR04",  # no type
    "PR07",  # no description
    "PR10",  # space around the colon
    "RT01",  # returns something and does not say what
    "RT03",  # no description
    "SS01",  # no summary
    "SS03",  # no full stop
    "YD01",  # yields something and does not say what
}


# Classes of the package whose own docstring says what a parameter of this type is.
EXPLAINED = {"Config", "RunOptions", "Record", "World", "Split", "Splits"}


def is_public(name: str) -> bool:
    """Whether a name is for others."""
    return not name.startswith("_")


def public_nodes(path: Path):
    """Yield the public functions, classes and methods of a file, with their qualified names."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and is_public(node.name):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, ast.FunctionDef) and is_public(member.name):
                        yield f"{node.name}.{member.name}", member


def is_property(node: ast.AST) -> bool:
    """Whether a method is read like an attribute."""
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


def raised(node: ast.FunctionDef) -> set[str]:
    """Name the exceptions that a function itself raises."""
    return {
        ast.unparse(found.exc.func if isinstance(found.exc, ast.Call) else found.exc)
        for found in ast.walk(node)
        if isinstance(found, ast.Raise) and found.exc is not None
    }


def short_form_findings(node: ast.FunctionDef) -> list[str]:
    """List what is missing in a docstring of one or two sentences.

    A small function may do without sections when its signature is annotated and its sentences
    name every parameter but those whose type is explained by its own class.
    """
    doc = ast.get_docstring(node) or ""
    missing = []
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    for argument in arguments:
        if argument.arg in ("self", "cls"):
            continue
        kind = ast.unparse(argument.annotation) if argument.annotation else ""
        if kind in EXPLAINED:
            continue
        if not kind:
            missing.append(f"of what type is `{argument.arg}`?")
        if not re.search(rf"\b{re.escape(argument.arg)}\b", doc):
            missing.append(f"says nothing of `{argument.arg}`")
    if node.returns is None:
        missing.append("of what type is what it returns?")
    return missing


def findings(path: Path) -> list[str]:
    """List what is missing in a file's docstrings."""
    config = {"checks": CHECKS, "exclude": None, "overrides": {}, "exclude_files": None}
    public = dict(public_nodes(path))
    docs = {name: ast.get_docstring(node) or "" for name, node in public.items()}
    short = {
        name
        for name, node in public.items()
        if isinstance(node, ast.FunctionDef) and "----" not in docs[name]
    }
    found = []
    for _, name, check, message in process_file(path, config):
        member = name.split(".", 1)[1] if "." in name else ""
        if member in public and not (member in short and check in ("PR01", "RT01", "YD01")):
            found.append(f"{member}: {check} {message}")
    for name, node in public.items():
        if isinstance(node, ast.ClassDef):
            continue
        if name in short and not is_property(node):
            found += [f"{name}: {problem}" for problem in short_form_findings(node)]
        missing = {error for error in raised(node) if error[0].isupper()}
        missing -= set(re.findall(r"\w+", docs[name]))
        if missing and not is_property(node):
            found.append(f"{name}: raises {', '.join(sorted(missing))} and does not say so")
        kinds = [a.annotation for a in [*node.args.args, *node.args.kwonlyargs]] + [node.returns]
        written = " ".join(ast.unparse(kind) for kind in kinds if kind)
        arrays = re.search(r"\b(Tensor|ndarray)\b", written)
        if arrays and not re.search(r"[Ss]hape|scalar|\([A-Z\d]", docs[name]):
            found.append(f"{name}: of what shape are its arrays?")
    return found


def test_every_public_name_is_documented(pristine):
    package = pristine.root / "src" / pristine.package
    missing = [
        f"{path.relative_to(package)}: {finding}"
        for path in sorted(package.rglob("*.py"))
        for finding in findings(path)
    ]
    assert not missing, "\n" + "\n".join(missing)


def test_every_module_says_what_it_is_for(pristine):
    for path in [pristine.root / "train.py", *sorted((pristine.root / "src").rglob("*.py"))]:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_the_validator_would_notice(tmp_path):
    path = tmp_path / "code.py"
    path.write_text(
        '"""Code."""\n\ndef scale(x: Tensor, by):\n    """Scale it.\n\n    Parameters\n'
        '    ----------\n    x : Tensor\n        The images.\n    """\n'
        "    if by < 0:\n        raise ValueError\n    return x * by\n",
        encoding="utf-8",
    )
    said = "\n".join(findings(path))
    for word in ("PR01", "RT01", "ValueError", "of what shape"):
        assert word in said


@pytest.mark.slow
@pytest.mark.torch
def test_one_command_builds_the_pages_and_they_load_nothing_from_elsewhere(project):
    readme = (project.root / "README.md").read_text(encoding="utf-8")
    command = re.search(r"(?m)^(pdoc .*)$", readme)[1]
    built = project.run(*command.split())
    assert built.returncode == 0, built.stderr
    pages = sorted((project.root / "build" / "api").rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        html = page.read_text(encoding="utf-8")
        assert not re.search(r'<(script|link|img|iframe)[^>]*(src|href)="(https?:)?//', html), page
    assert "Parameters" in next(page for page in pages if page.name == "models.html").read_text()
