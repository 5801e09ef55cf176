"""SAEBench's five main evaluations: a function each, from a job and its SAE to the record.

They run in the worker, in a working directory of their own, and sae_bench is imported inside of
them: it takes seconds, and changes the process it runs in.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from temporal_sae.eval.reconstruction import ReconstructionSums
from temporal_sae.eval.saebench import guards
from temporal_sae.eval.saebench.adapter import SAEBenchSAE
from temporal_sae.eval.saebench.guards import Function, Record
from temporal_sae.eval.saebench.options import Job
from temporal_sae.latents import Latents


def core(job: Job, sae: SAEBenchSAE) -> Record:
    """Measure reconstruction, sparsity, and what the language model loses.

    `eval_result_unstructured` holds what is measured beside sae_bench.

    Raises:
        RunError: sae_bench has logged a failure instead of raising it.
    """
    from sae_bench.evals.core import main

    sums = ReconstructionSums(sae.cfg.d_in, torch.device(job.device))
    guards.replace(main, "get_sparsity_and_variance_metrics", lambda f: watched(f, sums))
    # As NaN, what has no value can be told from -1, which sae_bench would write for it.
    guards.replace(main, "replace_nans_with_negative_one", lambda _: lambda metrics: metrics)
    failures = ["sae_bench has skipped the evaluation"]
    guards.replace(main.logger, "error", lambda _: failures.append)
    sizes = dict(job.options)
    main.multiple_evals(
        selected_saes=[(job.sae_set, sae)],
        eval_batch_size_prompts=sizes.pop("batch_size_prompts"),
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
        output_folder=str(guards.RESULTS),
        verbose=True,
        dtype=job.llm_dtype,
        device=job.device,
        force_rerun=True,
        **sizes,
    )
    record = guards.only_record(" ".join(failures[-1].split()))
    quality = sums.metrics()["reconstruction_quality"]
    beside = {
        "explained_variance_textbook": quality["explained_variance"],
        "mse_per_element": quality["mse"],
        "tokens": sums.tokens,
    }
    return {**record, "eval_result_unstructured": beside}


def watched(function: Function, sums: ReconstructionSums) -> Function:
    """Let `sums` see the tokens and activations on which sae_bench measures the variance."""

    def measure(sae: SAEBenchSAE, model: Any, store: Any, *args: Any, **kwargs: Any) -> Any:
        special = [token for token in kwargs.get("ignore_tokens", ()) if token is not None]
        next_batch, counts = store.get_batch_tokens, torch.empty(0, dtype=torch.bool)

        def get_batch_tokens(*args: Any, **kwargs: Any) -> Tensor:
            nonlocal counts
            tokens: Tensor = next_batch(*args, **kwargs)
            counts = ~torch.isin(tokens, torch.tensor(special).to(tokens)).flatten()
            return tokens

        def add(x: Tensor, acts: Tensor) -> None:
            counted = counts.to(x.device)
            x, acts = x[counted], acts[counted]
            sums.add(x.float(), Latents.from_dense(acts.float()), sae.decode(acts).float())

        sae.observer, store.get_batch_tokens = add, get_batch_tokens
        try:
            return function(sae, model, store, *args, **kwargs)
        finally:
            sae.observer, store.get_batch_tokens = None, next_batch

    return measure


def sparse_probing(job: Job, sae: SAEBenchSAE) -> Record:
    """Measure how well a few latents tell the classes of a text apart."""
    from sae_bench.evals.sparse_probing import main

    config = guards.make_config(main.SparseProbingEvalConfig, job)
    # Probes on latents draw the same numbers whether those on activations are trained or read.
    guards.seeded(main, "get_dataset_activations", job.seed)
    guards.seeded(main.activation_collection, "get_sae_meaned_activations", job.seed)
    kept: dict[str, Any] = {"save_activations": job.keep_artifacts, "artifacts_path": job.artifacts}
    record = guards.run_loop(main.run_eval, config, job, sae, **kept)
    # sae_bench puts -1 where saving memory has left the probe on all latents out.
    for values in (record["eval_result_metrics"]["sae"], *record["eval_result_details"]):
        if values.get("sae_test_accuracy") == -1:
            values["sae_test_accuracy"] = None
    return record


def scr(job: Job, sae: SAEBenchSAE) -> Record:
    """Measure spurious correlation removal; `eval_result_unstructured` names pairs that tie."""
    record = tpp(job, sae)
    return {**record, "eval_result_unstructured": {"tied_pairs": scr_ties(record)}}


def tpp(job: Job, sae: SAEBenchSAE) -> Record:
    """Measure targeted probe perturbation, or SCR by the same code of sae_bench."""
    from sae_bench.evals.scr_and_tpp import main

    config = guards.make_config(main.ScrAndTppEvalConfig, job, perform_scr=job.evaluation == "scr")
    # What is drawn for the SAE is the same whether probes are trained or read.
    guards.seeded(main, "get_dataset_activations", job.seed)
    guards.seeded(main, "get_all_node_effects_for_one_sae", job.seed)
    kept: dict[str, Any] = {"save_activations": job.keep_artifacts, "artifacts_path": job.artifacts}
    return guards.run_loop(main.run_eval, config, job, sae, **kept)


def scr_ties(record: Mapping[str, Any]) -> list[str]:
    """Return the pairs missing from `scr_metric`, which leaves out those whose directions tie."""
    return [
        detail["dataset_name"]
        for detail in record["eval_result_details"]
        if all(value is None for key, value in detail.items() if key.startswith("scr_metric"))
    ]


def absorption(job: Job, sae: SAEBenchSAE) -> Record:
    """Measure how far latents swallow the first letter of words; lower scores are better.

    Raises:
        RunError: the model tells too few first letters apart.
    """
    from sae_bench.evals.absorption import common, feature_absorption, k_sparse_probing, main

    config = guards.make_config(main.AbsorptionEvalConfig, job)
    for module in (common, feature_absorption):
        guards.replace(module, "get_alpha_tokens", guards.with_sorted_result)
    guards.seeded(k_sparse_probing, "load_or_train_probe", job.seed)
    guards.seeded(k_sparse_probing, "train_k_sparse_probes", job.seed)
    use_folders(main, Path(job.artifacts) / "absorption_probes")
    guards.seeded(main, "run_feature_absortion_experiment", job.seed)
    too_few = (
        f"fewer than min_feats_for_eval={config.min_feats_for_eval} of 26 first letters are found "
        f"in the activations with an F1 score above min_GT_probe_f1={config.min_GT_probe_f1:g}"
    )
    return guards.run_loop(main.run_eval, config, job, sae, too_few)


def use_folders(main: Any, probes: Path) -> None:
    """Give absorption folders of our own; by default sae_bench writes into its own package."""
    experiments = Path("experiments").resolve()  # of this SAE; the probes are shared
    k_sparse, absorbed = experiments / "k_sparse_probing", experiments / "feature_absorption"
    # The name is misspelt in sae_bench.
    for name, folders in {
        "run_k_sparse_probing_experiment": {"experiment_dir": k_sparse},
        "run_feature_absortion_experiment": {
            "experiment_dir": absorbed,
            "sparse_probing_experiment_dir": k_sparse,
        },
    }.items():
        setattr(main, name, partial(getattr(main, name), probes_dir=probes, **folders))
