"""Training a TopK SAE with the released packages of others, by each one's own trainer.

An adapter builds the package's model and trainer with its defaults, apart from what `Settings`
fixes, lets it train on `Tokens`, and returns how the trained SAE reconstructs. Nothing of a step is
written again here: loss, AuxK, clipping, decoder constraint, optimiser, dead counters and schedule
are the package's, and so is the autocast that it uses for bfloat16. Logging and saving are off.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from ours import train_method, train_plain
from peer_imports import enter_dictionary_learning
from settings import Reconstruct, Settings, Tokens, Unsupported
from torch import Tensor, nn

from temporal_sae.latents import Latents

os.environ.setdefault("TQDM_DISABLE", "1")  # a bar is no part of a step


def train_saelens(settings: Settings, tokens: Tokens) -> Reconstruct:
    """SAELens: SSE, clipping at 1; decoder norms are free and multiplied into the latents."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(settings.seed)
    config = TopKTrainingSAEConfig(
        d_in=settings.d_in, d_sae=settings.d_sae, k=settings.k, device=settings.device
    )
    sae = TopKTrainingSAE(config)
    options: dict[str, Any] = {}
    if settings.dead_after is not None:  # it counts steps
        options["dead_feature_window"] = settings.dead_after // settings.batch
    lr = settings.lr or SAETrainerConfig.lr
    trainer_config = SAETrainerConfig(
        total_training_samples=settings.steps * settings.batch,
        train_batch_size_samples=settings.batch,
        lr=lr,
        lr_end=lr / 10,  # must be given, is not used with a constant rate
        lr_warm_up_steps=settings.warmup,
        lr_decay_steps=settings.decay_steps,
        device=settings.device,
        autocast=settings.precision == "bfloat16",
        **options,
    )
    SAETrainer(trainer_config, sae, tokens).fit()

    def reconstruct(x: Tensor) -> tuple[Latents, Tensor]:
        acts = sae.encode(x)
        return Latents.from_dense(acts), sae.decode(acts)

    return reconstruct


def train_dictionary_learning(settings: Settings, tokens: Tokens) -> Reconstruct:
    """dictionary_learning: SSE, AuxK 1/32, projection, clipping at 1, renormalisation.

    The loop is that of its `trainSAE`, whose module cannot be imported without nnsight.
    """
    topk_trainer = import_dictionary_learning()
    if settings.precision == "bfloat16" and settings.device == "cpu":
        raise Unsupported("its training loop has no bfloat16 on the CPU")
    dtype = getattr(torch, settings.precision)
    trainer = topk_trainer(
        steps=settings.steps,
        activation_dim=settings.d_in,
        dict_size=settings.d_sae,
        k=settings.k,
        layer=0,
        lm_name="",
        lr=settings.lr,
        warmup_steps=settings.warmup,
        decay_start=settings.steps - settings.decay_steps,
        seed=settings.seed,
        device=settings.device,
    )
    if settings.dead_after is not None:
        trainer.dead_feature_threshold = settings.dead_after
    on_cpu = settings.device == "cpu"
    autocast = nullcontext() if on_cpu else torch.autocast("cuda", dtype=dtype)
    for step in range(settings.steps):
        x = next(tokens).to(dtype=dtype)
        with autocast:
            trainer.update(step, x)

    def reconstruct(x: Tensor) -> tuple[Latents, Tensor]:
        acts = trainer.ae.encode(x)
        return Latents.from_dense(acts), trainer.ae.decode(acts)

    return reconstruct


def import_dictionary_learning() -> Any:
    """Its TopKTrainer."""
    enter_dictionary_learning()
    from dictionary_learning.trainers.top_k import TopKTrainer

    return TopKTrainer


def train_sparsify(settings: Settings, tokens: Tokens) -> Reconstruct:
    """sparsify: FVU, no AuxK, projection, schedule-free sign descent with its own learning rate.

    Sparse decoder and encoder gradient. On CUDA its forward pass is always bfloat16.
    """
    if settings.device == "cpu":
        if settings.precision == "bfloat16":
            raise Unsupported("its autocast is for CUDA only")
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # read on import
    from sparsify import SparseCoderConfig, TrainConfig
    from sparsify import trainer as module

    bar = module.tqdm
    module.tqdm = lambda **options: bar(**options | {"disable": True})

    class Unsaved(module.Trainer):
        def save(self) -> None: ...

    sae_config = SparseCoderConfig(num_latents=settings.d_sae, k=settings.k)
    options: dict[str, Any] = {}
    if settings.dead_after is not None:
        options["dead_feature_threshold"] = settings.dead_after
    config = TrainConfig(
        sae_config,
        batch_size=1,
        hookpoints=["layer"],
        init_seeds=[settings.seed],
        log_to_wandb=False,
        **options,
    )
    model = OneLayer(tokens, settings).to(settings.device)
    trainer = Unsaved(config, PositionsOnly(settings), model)
    trainer.fit()
    trainer.optimizers[0].eval()  # the averaged weights
    sae = trainer.saes["layer"]

    def reconstruct(x: Tensor) -> tuple[Latents, Tensor]:
        values, indices, _ = sae.encode(x)
        return Latents(values, indices), sae.decode(values, indices)

    return reconstruct


class OneLayer(nn.Module):
    """For sparsify, which trains inside a language model: one layer whose output is the batch."""

    dummy_inputs = {"input_ids": None}  # noqa: RUF012 - as transformers has it

    def __init__(self, tokens: Tokens, settings: Settings) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.tokens, self.device = tokens, torch.device(settings.device)
        self.d_in = settings.d_in

    @property
    def base_model(self) -> OneLayer:
        return self

    def forward(self, input_ids: Tensor | None) -> Tensor:
        x = torch.zeros(1, self.d_in) if input_ids is None else next(self.tokens)
        return self.layer(x[None])


class PositionsOnly:
    """For sparsify: one sequence a step, whose tokens do not matter."""

    def __init__(self, settings: Settings) -> None:
        self.steps, self.sequence = settings.steps, torch.zeros(settings.batch, dtype=torch.int64)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, n: int) -> dict[str, Tensor]:
        return {"input_ids": self.sequence}


SUBJECTS: dict[str, Callable[[Settings, Tokens], Reconstruct]] = {
    "ours": train_plain,
    "ours+method": train_method,
    "SAELens": train_saelens,
    "sparsify": train_sparsify,
    "dictionary_learning": train_dictionary_learning,
}
PACKAGES = ("torch", "sae-lens", "eai-sparsify", "dictionary-learning")


def versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
