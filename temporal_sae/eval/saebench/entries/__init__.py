"""One module an evaluation of SAEBench: `run(job, sae)` gives its record as a dict.

A module is imported when its evaluation runs, which is inside the subprocess: sae_bench takes
seconds to import and changes global state.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from temporal_sae.eval.saebench.adapter import SAEBenchSAE
    from temporal_sae.eval.saebench.work import Job

MODULES = {
    "core": "core",
    "sparse_probing": "sparse_probing",
    "scr": "scr_tpp",
    "tpp": "scr_tpp",
    "absorption": "absorption",
    "unlearning": "unlearning",
    "autointerp": "autointerp",
    "ravel": "ravel",
    "sae_probes": "sae_probes",
}


def run_entry(job: Job, sae: SAEBenchSAE) -> dict[str, Any]:
    """Run the evaluation that the job names, in the working directory, which is private.

    Returns:
        SAEBench's record: `eval_type_id`, `eval_config`, `eval_result_metrics`, …
    """
    module = import_module(f"{__name__}.{MODULES[job.evaluation]}")
    record: dict[str, Any] = module.run(job, sae)
    return record
