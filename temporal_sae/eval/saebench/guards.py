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
    """Make sae_bench's config, which judges the values, from a job's options.

    Args:
        config_class: of sae_bench.
        job: its options have the names of the config's fields; null leaves a field as it is.
        own: options that sae_bench does not know.
        more: other fields.

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
    why_not: str = "sae_bench has written no result",
    **more: Any,
) -> Record:
    """Return the one record that sae_bench's loop over SAEs, `run_eval`, writes.

    `why_not` is the reason if there is none, since sae_bench may end without a word.
    """
    RESULTS.mkdir(exist_ok=True)
    run_eval(
        config=config,
        selected_saes=[(job.sae_set, sae)],
        device=job.device,
        output_path=str(RESULTS),
        force_rerun=True,
        **more,
    )
    return only_record(RESULTS, why_not)


def only_record(folder: Path, why_not: str) -> Record:
    """Return the one record that sae_bench has written below `folder`.

    Raises:
        RunError: there is none, for the reason given, or more than one.
    """
    found = sorted(folder.rglob("*_eval_results.json"))
    if len(found) > 1:
        raise RunError(f"sae_bench has written {len(found)} results where one was expected")
    if not found:
        raise RunError(why_not)
    record: Record = json.loads(found[0].read_text())
    return record


def finite(record: Record, group: str, why_not: str) -> Record:
    """Return the record if its group of metrics has numbers; a mean over nothing is NaN.

    Raises:
        RunError: it has not, for the reason given.
    """
    if not all(map(math.isfinite, record["eval_result_metrics"][group].values())):
        raise RunError(why_not)
    return record


def finished(record: Mapping[str, Any]) -> Record:
    """Return the record with the package's version for the git revision of the caller."""
    return {**record, "sae_bench_commit_hash": package_version("sae-bench")}


def link(name: str, target: Path) -> None:
    """Let a folder or a file be found by a name of sae_bench's below the working directory."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).symlink_to(target.resolve())
