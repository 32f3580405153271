"""A `conda` for conda-lock: its command line in front of the solver that conda itself can use.

No conda can be installed from the registries that the tests reach. conda-lock asks conda for one
thing, `create --dry-run --json`; this answers it by py-rattler, from the channel in CHANNEL_HERE.
"""

import argparse
import asyncio
import json
import os
import sys

from rattler import Channel, MatchSpec, solve
from rattler.exceptions import GatewayError, SolverError


def main() -> int:
    """Solve what is asked for and print the plan as conda does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", action="version", version="conda 26.9.0")
    create = parser.add_subparsers(required=True).add_parser("create")
    create.add_argument("--prefix", required=True)
    create.add_argument("--dry-run", action="store_true", required=True)
    create.add_argument("--json", action="store_true", required=True)
    create.add_argument("--override-channels", action="store_true")
    create.add_argument("--channel", action="append")
    create.add_argument("specs", nargs="+")
    asked = parser.parse_args()
    here = os.environ["CHANNEL_HERE"]
    channels = [Channel(here if name == "conda-forge" else name) for name in asked.channel]
    try:
        records = asyncio.run(
            solve(
                sources=channels,
                specs=[MatchSpec(spec) for spec in asked.specs],
                platforms=[os.environ["CONDA_SUBDIR"], "noarch"],
            )
        )
    except (SolverError, GatewayError) as error:
        print(json.dumps({"success": False, "message": str(error)}))
        return 1
    fetch = [json.loads(record.to_json()) for record in records]
    print(json.dumps({"actions": {"FETCH": fetch, "LINK": []}, "success": True}))
    return 0


code = main()
sys.stdout.flush()
os._exit(code)  # rattler's threads, still ending, crash one interpreter in ten as it goes
