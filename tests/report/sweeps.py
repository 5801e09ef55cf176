"""Folders of finished jobs, as sweeps leave them, for the tests of what is told of sweeps."""

import json

from temporal_sae.report.sweep_facts import JobStatus


def results_of(**core):
    """The content of a `results.json`: l0, explained_variance, ce_loss_score and dead_share."""
    groups = {
        "l0": "sparsity",
        "explained_variance": "reconstruction_quality",
        "ce_loss_score": "model_performance_preservation",
        "dead_share": "misc_metrics",
    }
    metrics = {groups[name]: {name: value} for name, value in core.items()}
    return {"core evaluation results": {"metrics": metrics}}


def write_job(sweep, number, overrides, results=None, state="finished", reason=None, **record):
    """Write a job's folder, unless it has no results; returns its state."""
    folder = sweep / f"{number}_job"
    if results is not None:
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results))
        record = {"status": "finished", "config": {"objective": "explained_variance"}} | record
        (folder / "run.json").write_text(json.dumps(record))
    return JobStatus(number, folder, tuple(overrides.split()), state, reason)
