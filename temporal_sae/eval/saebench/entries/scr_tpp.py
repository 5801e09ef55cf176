"""SAEBench's spurious correlation removal (SCR) and targeted probe perturbation (TPP)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from temporal_sae.eval.saebench import guards
from temporal_sae.eval.saebench.adapter import SAEBenchSAE
from temporal_sae.eval.saebench.entries.config import make_config
from temporal_sae.eval.saebench.work import Job

OUTPUT = Path("results")


def run(job: Job, sae: SAEBenchSAE) -> dict[str, Any]:
    """The record of one of the two; for SCR `eval_result_unstructured` names the pairs that tie.

    Raises:
        RunError: an option is not what SAEBench takes.
    """
    from sae_bench.evals.scr_and_tpp import main as scr_and_tpp

    config = make_config(scr_and_tpp.ScrAndTppEvalConfig, job, perform_scr=job.evaluation == "scr")
    # What is drawn for the SAE is the same whether probes are trained or read.
    guards.seeded(scr_and_tpp, "get_dataset_activations", job.seed)
    guards.seeded(scr_and_tpp, "get_all_node_effects_for_one_sae", job.seed)
    scr_and_tpp.run_eval(
        config,
        [(job.sae_set, sae)],
        job.device,
        str(OUTPUT),
        force_rerun=True,
        clean_up_activations=False,
        save_activations=job.keep_artifacts,
        artifacts_path=job.artifacts,
    )
    record = guards.only_record(OUTPUT)
    if job.evaluation == "scr":
        record["eval_result_unstructured"] = {"tied_pairs": guards.scr_ties(record)}
    return record
