"""Run every benchmark, one after the other, and print what each says."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NO_BENCHMARK = {"run_all.py", "common.py"}

failed = []
for script in sorted(HERE.glob("*.py")):
    if script.name not in NO_BENCHMARK:
        print(f"\n## {script.stem}", flush=True)
        done = subprocess.run(
            [sys.executable, script], check=False, stderr=subprocess.PIPE, text=True
        )
        if done.returncode:
            failed.append(script.name)
            print(done.stderr[-2000:])
sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
