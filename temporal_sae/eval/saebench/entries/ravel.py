"""RAVEL: whether latents separate the attributes of an entity.

A mask over the latents is trained so that exchanging them between two prompts changes one
attribute of the answer (cause) and leaves the others as they are (isolation).
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temporal_sae.errors import RunError
from temporal_sae.eval.saebench import guards
from temporal_sae.eval.saebench.entries.config import make_config
from temporal_sae.eval.saebench.entries.places import link
from temporal_sae.eval.saebench.needs_outside import RAVEL_DATA

if TYPE_CHECKING:
    from temporal_sae.eval.saebench.adapter import SAEBenchSAE
    from temporal_sae.eval.saebench.work import Job

SMALLER = 4  # as SAEBench does, since gradients take memory; the mask's training depends on it
RESULTS = Path("records")
PROMPTS = "base"  # where sae_bench reads the prompts, below its folder of artifacts


def run(job: Job, sae: SAEBenchSAE) -> dict[str, Any]:
    """SAEBench's record; `eval_result_unstructured` has the scores of each attribute.

    Raises:
        RunError: the model answers too few prompts.
    """
    from sae_bench.evals.ravel import instance, main, mdbm
    from sae_bench.sae_bench_utils import activation_collection
    from transformer_lens.loading_from_pretrained import get_official_model_name

    place_prompts(Path(job.artifacts) / PROMPTS)
    guards.seed_everything(job.seed)
    main.LLM_NAME_MAP[job.model_name] = get_official_model_name(job.model_name)
    guards.replace(activation_collection, "get_module", with_tuples)
    guards.replace(instance.RAVELInstance, "downsample_", lambda f: apart(f, job.seed))
    guards.replace(mdbm, "train_mdbm", frozen)
    batch_size = max(1, job.llm_batch_size // SMALLER)
    config = make_config(main.RAVELEvalConfig, job, llm_batch_size=batch_size)
    link(Path(config.artifact_dir), Path(job.artifacts))
    main.run_eval(
        config,
        [(job.sae_set, sae)],
        job.device,
        str(RESULTS),
        force_rerun=True,
        artifacts_path=str(RESULTS),
    )
    record = guards.only_record(RESULTS)
    if not all(map(math.isfinite, record["eval_result_metrics"]["ravel"].values())):
        raise RunError(
            "ravel: the model answers too few prompts correctly for a batch to test with; raise "
            "eval.ravel.num_pairs_per_attribute, or lower eval.llm_batch_size"
        )
    return record


def place_prompts(folder: Path) -> None:
    """Put the prompts where sae_bench looks before it downloads them.

    Its own download passes an argument that huggingface_hub has dropped.
    """
    local = Path(RAVEL_DATA)
    if local.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        for file in local.glob("*.json"):
            shutil.copyfile(file, folder / file.name)
    elif not any(folder.glob("ravel_*.json")):
        from huggingface_hub import snapshot_download

        snapshot_download(
            RAVEL_DATA, repo_type="dataset", local_dir=folder, allow_patterns="*.json"
        )


class WithTuples:
    """A layer whose hooks see a tuple, as transformers 4 gave them one, and 5 does not.

    Args:
        layer: returns hidden states, alone or first in a tuple.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def register_forward_hook(self, hook: Callable[..., Any]) -> Any:
        """As of a torch module."""

        def seen(module: Any, inputs: Any, outputs: Any) -> Any:
            if isinstance(outputs, tuple):
                return hook(module, inputs, outputs)
            changed = hook(module, inputs, (outputs,))
            return None if changed is None else changed[0]

        return self._layer.register_forward_hook(seen)


def with_tuples(get_module: Callable[..., Any]) -> Callable[..., Any]:
    """`get_module` of sae_bench, for layers that return a tensor."""
    return lambda model, layer: WithTuples(get_module(model, layer))


def apart(downsample: Callable[..., Any], seed: int) -> Callable[..., Any]:
    """Sampling that leaves the generator as it was: it is skipped once its result is kept."""

    def sample(self: Any, n: int) -> Any:
        before = random.getstate()
        random.seed(seed)
        try:
            return downsample(self, min(n, len(self.prompts)))
        finally:
            random.setstate(before)

    return sample


def frozen(train_mask: Callable[..., Any]) -> Callable[..., Any]:
    """Training of the mask alone: sae_bench collects gradients of the language model as well."""

    def train(model: Any, *args: Any, **kwargs: Any) -> Any:
        return train_mask(model.requires_grad_(False), *args, **kwargs)

    return train
