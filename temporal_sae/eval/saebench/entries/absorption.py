"""SAEBench's absorption: latents that swallow the first letter of the words they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from temporal_sae.eval.saebench import guards
from temporal_sae.eval.saebench.adapter import SAEBenchSAE
from temporal_sae.eval.saebench.entries.config import make_config
from temporal_sae.eval.saebench.work import Job

OUTPUT = Path("results")
EXPERIMENTS = Path("experiments")  # of this SAE; the probes are shared
K_SPARSE_PROBES = Path("artifacts", "absorption")  # fixed in sae_bench


def run(job: Job, sae: SAEBenchSAE) -> dict[str, Any]:
    """The record. Its scores are better when lower.

    Raises:
        RunError: the model tells too few first letters apart, or an option is not SAEBench's.
    """
    from sae_bench.evals.absorption import common, feature_absorption, k_sparse_probing, main

    config = make_config(main.AbsorptionEvalConfig, job)
    for module in (common, feature_absorption):
        guards.sorted_results(module, "get_alpha_tokens")
    guards.seeded(k_sparse_probing, "load_or_train_probe", job.seed)
    guards.seeded(k_sparse_probing, "train_k_sparse_probes", job.seed)
    use_folders(main, Path(job.artifacts))
    guards.seeded(main, "run_feature_absortion_experiment", job.seed)
    OUTPUT.mkdir(exist_ok=True)
    main.run_eval(config, [(job.sae_set, sae)], job.device, str(OUTPUT), force_rerun=True)
    return guards.only_record(OUTPUT, too_few_letters(config))


def use_folders(main: Any, artifacts: Path) -> None:
    """Folders of our own; by default sae_bench writes into its own package."""
    k_sparse = (EXPERIMENTS / "k_sparse_probing").resolve()
    probes = artifacts / "absorption_probes"
    guards.with_defaults(
        main, "run_k_sparse_probing_experiment", experiment_dir=k_sparse, probes_dir=probes
    )
    guards.with_defaults(
        main,
        "run_feature_absortion_experiment",
        experiment_dir=(EXPERIMENTS / "feature_absorption").resolve(),
        sparse_probing_experiment_dir=k_sparse,
        probes_dir=probes,
    )


def too_few_letters(config: Any) -> str:
    """Why sae_bench ends without a result: it prints that, and gives back nothing."""
    rows = [row for path in K_SPARSE_PROBES.glob("*.json") for row in json.loads(path.read_text())]
    found = sum(float(row["f1_probe"] or 0) > config.min_GT_probe_f1 for row in rows)
    return (
        f"probes find {found} of 26 first letters in the activations with an F1 score above "
        f"min_GT_probe_f1={config.min_GT_probe_f1:g}, and min_feats_for_eval="
        f"{config.min_feats_for_eval} are needed"
    )
