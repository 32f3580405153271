"""Records written by hand, in the contract's format: for tests and benchmarks of many."""

import hashlib
import json
import math
from pathlib import Path


def make_record(
    runs: Path, number: int, *, finished=True, epochs=3, verdict=None, **config
) -> Path:
    """Write a record that looks like training's; `number` makes it another one."""
    model = config.get("model", "simple_cnn")
    seed = config.get("seed", number)
    day, second = divmod(number, 80_000)
    clock = f"{second // 3600:02}{second // 60 % 60:02}{second % 60:02}"
    folder = runs / f"202601{day + 1:02}-{clock}-digits-{model}-s{seed}-{number % 65536:04x}"
    folder.mkdir(parents=True)
    values = {"dataset": "digits", "model": model, "epochs": epochs, "batch_size": 64,
              "learning_rate": 0.01, "weight_decay": 0.01, "augment": True, "split_seed": 0,
              "seed": seed, "device": "auto", "amp": "none", "deterministic": True,
              "threads": 1} | config  # fmt: skip
    accuracy = 0.9 + (number * 37 % 100) / 1000
    rows = [
        {
            "epoch": epoch,
            "train_loss": 2.3 * math.exp(-epoch / 3) + number % 7 / 50,
            "train_accuracy": accuracy * (1 - math.exp(-epoch)),
            "validation_loss": 2.3 * math.exp(-epoch / 4) + number % 5 / 50,
            "validation_accuracy": accuracy * (1 - math.exp(-epoch)),
            "learning_rate": 0.01 / epoch,
            "gradient_norm": 1.0,
            "seconds": 0.05,
        }
        for epoch in range(1, epochs + 1 if finished else epochs)
    ]
    weights = hashlib.sha256(str(number).encode()).hexdigest()
    files = {
        "config.json": values,
        "environment.json": {"python": "3.11.7", "threads": 1, "world_size": 1, "packages": []},
        "code.json": {"run": folder.name, "commit": "0" * 40, "base": "0" * 40, "argv": []},
        "data.json": {"dataset": "digits", "fingerprint": "f" * 64},
    }
    if finished:
        files["result.json"] = {
            "test_loss": 1 - accuracy, "test_accuracy": accuracy, "best_epoch": epochs,
            "epochs": epochs, "seconds": 0.05 * epochs, "weights_sha256": weights,
            "best_weights_sha256": weights,
        }  # fmt: skip
    if verdict:
        said = {"run": folder.name, "verdict": verdict, "result": files.get("result.json", {})}
        files["verification.json"] = said
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    (folder / "code.patch").write_bytes(b"")
    return folder
