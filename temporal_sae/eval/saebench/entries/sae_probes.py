"""Sparse probing on the data sets of sae-probes, which its package brings along.

Each of 113 tasks with two classes is learned from the k latents whose means differ most between
the classes, read at the last token of a text; the probe on all activations stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from temporal_sae.errors import RunError
from temporal_sae.eval.saebench import guards
from temporal_sae.eval.saebench.entries.config import make_config
from temporal_sae.eval.saebench.entries.places import link

if TYPE_CHECKING:
    from temporal_sae.eval.saebench.adapter import SAEBenchSAE
    from temporal_sae.eval.saebench.work import Job

RESULTS = Path("records")
BINARY = "_binarized"


def run(job: Job, sae: SAEBenchSAE) -> dict[str, Any]:
    """SAEBench's record.

    Raises:
        RunError: no data set gave a result.
    """
    from sae_bench.evals.sparse_probing_sae_probes import main

    guards.seed_everything(job.seed)
    guards.replace(main, "run_sae_evals", where_sae_bench_looks)
    given = {key: value for key, value in job.options.items() if value is not None}
    config = make_config(main.SparseProbingSaeProbesEvalConfig, replace(job, options=given))
    link(Path(config.model_cache_path), Path(job.artifacts))
    # sae-probes runs the language model in float32, whatever is asked for.
    float_sae = sae.to(device=job.device, dtype=torch.float32)
    main.run_eval(config, [(job.sae_set, float_sae)], job.device, str(RESULTS), force_rerun=True)
    record = guards.only_record(RESULTS)
    if not record["eval_result_details"]:
        raise RunError("sae_probes: no data set gave a result")
    return record


def where_sae_bench_looks(run_sae_evals: Callable[..., Any]) -> Callable[..., Any]:
    """`run_sae_evals`, with the results of binary latents under the name of the others."""

    def run(*args: Any, results_path: str, **kwargs: Any) -> None:
        run_sae_evals(*args, results_path=results_path, **kwargs)
        for file in Path(results_path).rglob(f"*{BINARY}.json"):
            file.rename(file.with_stem(file.stem.removesuffix(BINARY)))

    return run
