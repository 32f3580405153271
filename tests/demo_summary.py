"""What `make demo` prints last: where the report is, what came out, what to type next."""

import json
import sys
from pathlib import Path

project = Path(sys.argv[1])
report = project / "reports" / "01_baseline"
result = json.loads((report / "run" / "result.json").read_text(encoding="utf-8"))
print(f"""
The report:     {(report / "report.html").resolve()}
Test accuracy:  {result["test_accuracy"]:.2%} (epoch {result["best_epoch"]} of {result["epochs"]})

What to type next:
  source {Path(".venv/bin/activate").resolve()}
  cd {project}
  lab new "Does a smaller learning rate help?"    # your own experiment, from the skeleton
  lab --help                                      # all commands""")
