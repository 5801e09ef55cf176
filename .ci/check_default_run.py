"""Fail when the default run is worse than the README promises."""

import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
metrics = json.loads((folder / "results.json").read_text())["core evaluation results"]["metrics"]
record = json.loads((folder / "run.json").read_text())
checks = {
    "ce_loss_score >= 0.9": metrics["model_performance_preservation"]["ce_loss_score"] >= 0.9,
    "explained_variance >= 0.8": metrics["reconstruction_quality"]["explained_variance"] >= 0.8,
    "dead_share < 0.2": metrics["misc_metrics"]["dead_share"] < 0.2,
    "peak memory < 2 GiB": record["peak_memory_bytes"]["host"] < 2 * 2**30,
}
for name, holds in checks.items():
    print(f"{'ok  ' if holds else 'FAIL'} {name}")
sys.exit(not all(checks.values()))
