"""SAEBench's sparse probing: how well a few latents tell the classes of a text apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from temporal_sae.eval.saebench import guards
from temporal_sae.eval.saebench.adapter import SAEBenchSAE
from temporal_sae.eval.saebench.entries.config import make_config
from temporal_sae.eval.saebench.work import Job

OUTPUT = Path("results")


def run(job: Job, sae: SAEBenchSAE) -> dict[str, Any]:
    """The record.

    Raises:
        RunError: an option is not what SAEBench takes.
    """
    from sae_bench.evals.sparse_probing import main as sparse_probing

    config = make_config(sparse_probing.SparseProbingEvalConfig, job)
    # Probes on latents draw the same numbers whether those on activations are trained or read.
    guards.seeded(sparse_probing, "get_dataset_activations", job.seed)
    guards.seeded(sparse_probing.activation_collection, "get_sae_meaned_activations", job.seed)
    sparse_probing.run_eval(
        config,
        [(job.sae_set, sae)],
        job.device,
        str(OUTPUT),
        force_rerun=True,
        clean_up_activations=False,
        save_activations=job.keep_artifacts,
        artifacts_path=job.artifacts,
    )
    return without_stand_in(guards.only_record(OUTPUT))


def without_stand_in(record: dict[str, Any]) -> dict[str, Any]:
    """Null for `sae_test_accuracy` where saving memory left it out, for which sae_bench puts -1."""
    metrics = record["eval_result_metrics"]["sae"]
    for values in (metrics, *record["eval_result_details"]):
        if values.get("sae_test_accuracy") == -1:
            values["sae_test_accuracy"] = None
    return record
