"""SAEBench's core evaluation: reconstruction, sparsity, and what the language model loses."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from temporal_sae.eval.reconstruction import ReconstructionSums
from temporal_sae.eval.saebench import guards
from temporal_sae.eval.saebench.adapter import SAEBenchSAE
from temporal_sae.eval.saebench.work import Job
from temporal_sae.latents import Latents

OUTPUT = Path("results")


def run(job: Job, sae: SAEBenchSAE) -> dict[str, Any]:
    """The record; `eval_result_unstructured` holds what is measured beside sae_bench.

    Raises:
        RunError: sae_bench has logged a failure instead of raising it.
    """
    from sae_bench.evals.core import main as core

    sums = ReconstructionSums(sae.cfg.d_in, torch.device(job.device))
    watch(core, sums)
    # As NaN, what has no value can be told from -1, which sae_bench would write for it.
    guards.replace(core, "replace_nans_with_negative_one", lambda _: lambda metrics: metrics)
    failures = LastMessage()
    core.logger.addHandler(failures)
    core.multiple_evals(
        selected_saes=[(job.sae_set, sae)],
        n_eval_reconstruction_batches=job.options["n_eval_reconstruction_batches"],
        n_eval_sparsity_variance_batches=job.options["n_eval_sparsity_variance_batches"],
        eval_batch_size_prompts=job.options["batch_size_prompts"],
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
        exclude_special_tokens_from_reconstruction=job.options[
            "exclude_special_tokens_from_reconstruction"
        ],
        dataset=job.options["dataset"],
        context_size=job.options["context_size"],
        output_folder=str(OUTPUT),
        verbose=True,
        dtype=job.llm_dtype,
        device=job.device,
        force_rerun=True,
    )
    record = guards.only_record(OUTPUT, failures.text or "sae_bench has skipped the evaluation")
    return {**record, "eval_result_unstructured": beside(sums)}


def beside(sums: ReconstructionSums) -> dict[str, float]:
    """The textbook explained variance, and the error of an element whatever the batches."""
    quality = sums.metrics()["reconstruction_quality"]
    return {
        "explained_variance_textbook": quality["explained_variance"],
        "mse_per_element": quality["mse"],
        "tokens": sums.tokens,
    }


def watch(core: Any, sums: ReconstructionSums) -> None:
    """Let `sums` see the tokens and activations on which sae_bench measures the variance."""

    def make(function: guards.Function) -> guards.Function:
        @functools.wraps(function)
        def wrapped(sae: SAEBenchSAE, model: Any, store: Any, *args: Any, **kwargs: Any) -> Any:
            watcher = Watcher(sae, store, kwargs.get("ignore_tokens", ()), sums)
            sae.observer, store.get_batch_tokens = watcher.add, watcher.batch_of_tokens
            try:
                return function(sae, model, store, *args, **kwargs)
            finally:
                sae.observer = None
                store.get_batch_tokens = watcher.get_batch_tokens

        return wrapped

    guards.replace(core, "get_sparsity_and_variance_metrics", make)


class Watcher:
    """Remembers each batch of tokens, and sums what the SAE makes of their activations.

    Args:
        sae: whose latents they are.
        store: where sae_bench takes its tokens from.
        ignored: ids of tokens that do not count.
        sums: receive the tokens that count.
    """

    def __init__(
        self,
        sae: SAEBenchSAE,
        store: Any,
        ignored: Collection[int | None],
        sums: ReconstructionSums,
    ) -> None:
        self.sae, self.sums = sae, sums
        self.get_batch_tokens = store.get_batch_tokens
        self._ignored = torch.tensor([token for token in ignored if token is not None])
        self._counts = torch.empty(0, dtype=torch.bool)

    def batch_of_tokens(self, *args: Any, **kwargs: Any) -> Tensor:
        """The store's next batch."""
        tokens: Tensor = self.get_batch_tokens(*args, **kwargs)
        self._counts = ~torch.isin(tokens, self._ignored.to(tokens.device)).flatten()
        return tokens

    def add(self, x: Tensor, acts: Tensor) -> None:
        """Take in the activations of that batch, [tokens, D] and [tokens, F]."""
        counts = self._counts.to(x.device)
        x, acts = x[counts], acts[counts]
        x_hat = self.sae.decode(acts)
        self.sums.add(x.float(), sparse(acts.float()), x_hat.float())


def sparse(acts: Tensor) -> Latents:
    """The latents with as many slots as the token with the most needs."""
    k = max(1, int((acts > 0).sum(-1).max())) if acts.numel() else 1
    values, indices = acts.topk(k, dim=-1)
    return Latents(values.clamp(min=0), indices.masked_fill(values <= 0, -1))


class LastMessage(logging.Handler):
    """Keeps the last error that is logged, in one line."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self.text = " ".join(record.getMessage().split())
