"""What sae_bench 0.6 does that would lose or spoil a result, and what is done against it.

Nothing of sae_bench is changed on the disk. In the subprocess, which nothing else shares, a few of
its functions are replaced by themselves with a fixed seed, folder or order.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from temporal_sae.errors import RunError
from temporal_sae.eval.saebench.options import OF_THE_SAE_ALONE
from temporal_sae.eval.saebench.work import Job

T = TypeVar("T")
Function = Callable[..., Any]

NUMPY_SEEDS = 2**32
RECORD_PATTERN = "*_eval_results.json"


def seed_everything(seed: int) -> None:
    """Every generator that sae_bench draws from."""
    random.seed(seed)
    np.random.seed(seed % NUMPY_SEEDS)
    torch.manual_seed(seed)


def replace(module: Any, name: str, make: Callable[[Function], Function]) -> None:
    """Put `make(function)` in the place of a module's function."""
    setattr(module, name, make(getattr(module, name)))


def seeded(module: Any, name: str, seed: int) -> None:
    """Seed before each call: what follows no longer depends on what was read from a cache."""

    def make(function: Function) -> Function:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            seed_everything(seed)
            return function(*args, **kwargs)

        return wrapped

    replace(module, name, make)


def sorted_results(module: Any, name: str) -> None:
    """Sort the list that a function returns: a vocabulary has another order in each process."""

    def make(function: Function) -> Function:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> list[Any]:
            return sorted(function(*args, **kwargs))

        return wrapped

    replace(module, name, make)


def with_defaults(module: Any, name: str, **values: Any) -> None:
    """Bind arguments whose defaults sae_bench fixes at import, such as folders in its package."""
    replace(module, name, lambda function: functools.partial(function, **values))


def without_published_saes() -> None:
    """Spare the seconds in which sae_bench lists the SAEs of the hub at its import."""
    from sae_lens.loading import pretrained_saes_directory

    pretrained_saes_directory.get_pretrained_saes_directory = dict


@contextmanager
def grad_mode_kept() -> Iterator[None]:
    """sae_bench switches gradients on and off for the whole process, and leaves them so."""
    before = torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_grad_enabled(before)


def fresh(value: T) -> T:
    """A copy of its own for an evaluation that writes into its config, as RAVEL does."""
    return copy.deepcopy(value)


def only_record(folder: Path, why_not: str = "sae_bench has written no result") -> dict[str, Any]:
    """The one record that sae_bench has written below `folder`.

    Raises:
        RunError: there is none, for the reason given, or more than one.
    """
    found = sorted(folder.rglob(RECORD_PATTERN))
    if not found:
        raise RunError(why_not)
    if len(found) > 1:
        raise RunError(f"sae_bench has written {len(found)} results where one was expected")
    record: dict[str, Any] = json.loads(found[0].read_text())
    return record


def finished(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the package's version where sae_bench puts the caller's git revision."""
    return {**record, "sae_bench_commit_hash": package_version("sae-bench")}


def package_version(name: str) -> str | None:
    """Version of an installed package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def artifacts_name(job: Job, data_folder: str | None) -> str:
    """Name of the folder for what does not depend on the SAE, one for each configuration.

    sae_bench names its files after model, hook and data set only, and then reads probes of other
    sizes, seeds and types as if they were the ones asked for.
    """
    decisive = {
        "model": [job.model_name, job.hook_name, job.layer, job.llm_dtype, job.llm_batch_size],
        "device": torch.device(job.device).type,
        "seed": job.seed,
        "options": {k: v for k, v in job.options.items() if k not in OF_THE_SAE_ALONE},
        "data": data_folder,
        "versions": {
            name: package_version(name)
            for name in ("sae-bench", "transformer-lens", "transformers", "torch", "datasets")
        },
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return f"{job.evaluation}-{digest[:16]}"


def scr_ties(record: Mapping[str, Any]) -> list[str]:
    """Pairs that are missing from `scr_metric`, which leaves out those whose directions tie."""
    return [
        detail["dataset_name"]
        for detail in record["eval_result_details"]
        if all(value is None for key, value in detail.items() if key.startswith("scr_metric"))
    ]
