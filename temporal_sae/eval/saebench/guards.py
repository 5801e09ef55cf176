"""Guards against what sae_bench 0.6 does that would lose or spoil a result.

Nothing of sae_bench is changed on the disk. In the subprocess, which nothing else shares, a few of
its functions are replaced by themselves with a fixed seed, folder or order.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from temporal_sae.errors import RunError
from temporal_sae.eval.saebench.adapter import SAEBenchSAE
from temporal_sae.eval.saebench.options import Job, package_version

Record = dict[str, Any]
Function = Callable[..., Any]
RESULTS = Path("results")


def seed_everything(seed: int) -> None:
    """Seed every generator that sae_bench draws from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def replace(module: Any, name: str, make: Callable[[Function], Function]) -> None:
    """Put `make(function)` in the place of a module's function."""
    setattr(module, name, make(getattr(module, name)))


def seeded(module: Any, name: str, seed: int) -> None:
    """Seed before each call: what follows no longer depends on what was read from a cache."""

    def make(function: Function) -> Function:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            seed_everything(seed)
            return function(*args, **kwargs)

        return wrapped

    replace(module, name, make)


def with_sorted_result(function: Function) -> Function:
    """Sort the list that a function returns: a vocabulary has another order in each process."""
    return lambda *args, **kwargs: sorted(function(*args, **kwargs))


def without_published_saes() -> None:
    """Spare the seconds in which sae_bench lists the SAEs of the hub at its import."""
    from sae_lens.loading import pretrained_saes_directory

    pretrained_saes_directory.get_pretrained_saes_directory = dict


def make_config(config_class: Any, job: Job, own: Sequence[str] = (), **more: Any) -> Any:
    """Make sae_bench's config, which judges the values, of all options but our `own`, and `more`.

    Raises:
        RunError: SAEBench does not take a value.
    """
    given = {k: v for k, v in job.options.items() if k not in own and v is not None}
    fields = {
        **copy.deepcopy(given),  # RAVEL writes into its config
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


def run_loop(
    run_eval: Function,
    config: Any,
    job: Job,
    sae: SAEBenchSAE,
    why_not: str = "",
    score: tuple[str, str] | None = None,
    **more: Any,
) -> Record:
    """Return the record that sae_bench's loop over SAEs writes.

    Raises:
        RunError: for the reason `why_not`: there is none, or its score (group and name) is NaN, as
            is a mean over nothing.
    """
    RESULTS.mkdir(exist_ok=True)
    saes = [(job.sae_set, sae)]
    run_eval(config, saes, job.device, output_path=str(RESULTS), force_rerun=True, **more)
    record = only_record(why_not)
    if score and not math.isfinite(record["eval_result_metrics"][score[0]][score[1]]):
        raise RunError(why_not)
    return record


def only_record(why_not: str) -> Record:
    """Return the one record in RESULTS, or raise RunError for the reason given."""
    found = sorted(RESULTS.rglob("*_eval_results.json"))
    if len(found) != 1:
        counted = f"sae_bench has written {len(found)} results, and not one"
        raise RunError(counted if found or not why_not else why_not)
    record: Record = json.loads(found[0].read_text())
    return record


def finished(record: Mapping[str, Any]) -> Record:
    """Return the record with the package's version for the git revision of the caller."""
    return {**record, "sae_bench_commit_hash": package_version("sae-bench")}


def link(name: str, target: Path) -> None:
    """Let a folder or a file be found by a name of sae_bench's below the working directory."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).symlink_to(target.resolve())
