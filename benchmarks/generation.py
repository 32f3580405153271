"""Time `cookiecutter --no-input`: this template, one of a single file, and the best-known peer.

cookiecutter-data-science's package holds its program and what its template's hook imports, but not
its template, which it clones at every use. So its side is, by default, what it cannot do without: its
program generating one file, and a hook that writes the dependencies by the package's own function;
nothing is cloned. With a checkout of its template in FOLDER that is generated instead.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


HOOK = """from ccds.hook_utils.custom_config import write_custom_config
from ccds.hook_utils.dependencies import basic, packages, write_dependencies
write_dependencies("requirements.txt", packages + basic, [], "peer", "peer", "3.11")
write_custom_config("")
"""


def empty_template(folder: Path, hook: str = "") -> Path:
    """Write a template of one file.

    Parameters
    ----------
    folder : Path
        Where.
    hook : str
        What runs after the generation; none by default.

    Returns
    -------
    Path
        The template's folder.
    """
    if hook:
        (folder / "hooks").mkdir(parents=True)
        (folder / "hooks" / "post_gen_project.py").write_text(hook, encoding="utf-8")
    house = folder / "{{ cookiecutter.repo_name }}"
    house.mkdir(parents=True)
    (house / "README.md").write_text("# {{ cookiecutter.repo_name }}\n", encoding="utf-8")
    for questions in ("cookiecutter.json", "ccds.json"):  # ccds looks for both
        (folder / questions).write_text(json.dumps({"repo_name": "peer"}), encoding="utf-8")
    return folder


def measure(program: str, template: Path) -> tuple[float, float]:
    """Generate once.

    Parameters
    ----------
    program : str
        `cookiecutter` or `ccds`.
    template : Path
        What to generate.

    Returns
    -------
    wall, cpu : float
        Seconds, of the program and of the hooks that it starts.
    """
    output = Path(tempfile.mkdtemp())
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(
        [BIN / program, "--no-input", "--default-config", "--output-dir", output, template],
        check=True,
        capture_output=True,
        env={**os.environ, "HOME": str(output)},
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(output)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the medians of interleaved rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peer", type=Path, help="a checkout of cookiecutter-data-science")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        floor = empty_template(Path(scratch) / "floor")
        sides = {"this template": ("cookiecutter", TEMPLATE), "one file": ("cookiecutter", floor)}
        if shutil.which("ccds", path=BIN):
            peer = arguments.peer or empty_template(Path(scratch) / "peer", HOOK)
            what = "its template" if arguments.peer else "one file and its hook"
            sides[f"cookiecutter-data-science, {what}"] = ("ccds", peer)
        seconds = {name: [] for name in sides}
        for _ in range(arguments.rounds):
            for name, side in sides.items():
                seconds[name].append(measure(*side))
    ours = [statistics.median(column) for column in zip(*seconds["this template"], strict=True)]
    print("| generation | wall s | CPU s | wall, this template's = 1 |\n|---|---|---|---|")
    for name, rounds in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {wall / ours[0]:.2f} |")


if __name__ == "__main__":
    main()
