"""A `conda` for conda-lock and the tests: its command line in front of the solver it can use.

No conda can be installed from the registries that the tests reach. conda-lock asks conda for one
thing, `create --dry-run --json`; this answers it by py-rattler, from the channel in CHANNEL_HERE,
on a machine with the virtual packages in VIRTUAL_PACKAGES. Without `--dry-run` it installs.
"""

import argparse
import json
import os
import signal
import sys


def main() -> int:
    """Solve what is asked for, and print the plan as conda does or carry it out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", action="version", version="conda 26.9.0")
    create = parser.add_subparsers(required=True).add_parser("create")
    create.add_argument("--prefix", required=True)
    create.add_argument("--dry-run", action="store_true")
    create.add_argument("--json", action="store_true", required=True)
    create.add_argument("--override-channels", action="store_true")
    create.add_argument("--channel", action="append")
    create.add_argument("specs", nargs="+")
    asked = parser.parse_args()

    import asyncio

    import rattler
    from rattler.exceptions import GatewayError, SolverError

    here = os.environ["CHANNEL_HERE"]
    virtual = json.loads(os.environ.get("VIRTUAL_PACKAGES", "{}"))
    try:
        records = asyncio.run(
            rattler.solve(
                sources=[
                    rattler.Channel(here if name == "conda-forge" else name)
                    for name in asked.channel
                ],
                specs=[rattler.MatchSpec(spec) for spec in asked.specs],
                platforms=[os.environ["CONDA_SUBDIR"], "noarch"],
                virtual_packages=[
                    rattler.GenericVirtualPackage(
                        rattler.PackageName(f"__{name}"),
                        rattler.Version(version),
                        rattler.BuildString(build),
                    )
                    for name, (version, build) in virtual.items()
                ],
            )
        )
    except (SolverError, GatewayError) as error:
        print(json.dumps({"success": False, "message": str(error)}))
        return 1
    if not asked.dry_run:
        cache = os.environ["CONDA_PKGS_DIRS"]
        install = rattler.install(records, asked.prefix, cache_dir=cache, show_progress=False)
        asyncio.run(install)
    fetch = [json.loads(record.to_json()) for record in records]
    print(json.dumps({"actions": {"FETCH": fetch, "LINK": []}, "success": True}))
    return 0


# rattler's threads corrupt the interpreter's memory once in some hundred solutions (0.28: segfaults
# in the collector, aborts): each attempt is a process of its own, which may crash or hang.
for _ in range(3):
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code or 0
        sys.stdout.flush()
        os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status >= 0:
        break
sys.exit(status)
