"""SAEBench's configs, made of a job."""

from __future__ import annotations

from typing import Any

from temporal_sae.errors import RunError
from temporal_sae.eval.saebench import guards
from temporal_sae.eval.saebench.work import Job


def make_config(config_class: Any, job: Job, **more: Any) -> Any:
    """A config with the job's options, and those that all evaluations have.

    Args:
        config_class: of sae_bench.
        job: its options have the names of the config's fields.
        more: other fields.

    Raises:
        RunError: SAEBench does not take a value.
    """
    fields = {
        **guards.fresh(job.options),
        "model_name": job.model_name,
        "random_seed": job.seed,
        "llm_batch_size": job.llm_batch_size,
        "llm_dtype": job.llm_dtype,
    }
    try:
        return config_class(**(fields | more))
    except ValueError as error:  # pydantic's own is one: a title, and then two lines a field
        lines = [" ".join(line.split()) for line in str(error).splitlines()]
        reason = ": ".join(lines[1:3]) or lines[0]
        raise RunError(f"eval.{job.evaluation}.{reason}") from error
