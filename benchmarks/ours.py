"""Training with this package, as a run from the command line does it, on batches in memory."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from settings import Reconstruct, Settings, Tokens
from torch import Tensor

from temporal_sae.activations import ActivationBatch, Rows
from temporal_sae.experiment.determinism import deterministic_on_cpu
from temporal_sae.latents import Latents
from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.sae import TopKSAE
from temporal_sae.tracker import CoActivationTracker, NoTracker
from temporal_sae.training import Parts, ProgressDisplay, Trainer
from temporal_sae.training.checkpoint import NoCheckpoints

WINDOW = 1000
NEVER = 10**9  # no peer logs or saves here either


class InMemory:
    """`Tokens` as the trainer's batches."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def __next__(self) -> ActivationBatch:
        return ActivationBatch(Rows(next(self.tokens)))

    def sample(self, n: int) -> Tensor:
        return self.tokens.sample(n)

    def metrics(self) -> dict[str, Tensor]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Silent:
    """A logger that writes nothing."""

    def start(self, config: Any) -> None: ...
    def rewind(self, step: int) -> None: ...
    def log(self, step: int, metrics: dict[str, float]) -> None: ...
    def finish(self) -> None: ...


def train_plain(settings: Settings, tokens: Tokens) -> Reconstruct:
    """The plain SAE: no tracker, no penalty."""
    return train(settings, tokens, NoTracker(settings.d_sae), OrthogonalityLoss(0.0))


def train_method(settings: Settings, tokens: Tokens) -> Reconstruct:
    """With the co-activation tracker, and weights that follow change: the dearest of its own."""
    device = torch.device(settings.device)
    tracker = CoActivationTracker(settings.d_sae, WINDOW, storage=settings.storage, device=device)
    return train(settings, tokens, tracker, OrthogonalityLoss(weighting="instability"))


def train(settings: Settings, tokens: Tokens, tracker: Any, penalty: Any) -> Reconstruct:
    """All of a run's training but logging and checkpoints; deterministic, as runs are."""
    torch.manual_seed(settings.seed)
    sae = TopKSAE(settings.d_in, settings.d_sae, settings.k).to(settings.device)
    parts = Parts(
        sae=sae,
        batches=InMemory(tokens),
        tracker=tracker,
        penalty=penalty,
        logger=Silent(),
        checkpoints=NoCheckpoints(),
        progress=ProgressDisplay(settings.steps, Console(quiet=True)),
    )
    with deterministic_on_cpu(torch.device(settings.device)):
        make_trainer(settings).fit(parts)
    return lambda x: reconstruct(sae, x)


def make_trainer(settings: Settings) -> Trainer:
    options = dict(settings.ours)
    if settings.dead_after is not None:
        options["dead_after_tokens"] = settings.dead_after
    return Trainer(
        num_tokens=settings.steps * settings.batch,
        batch_size=settings.batch,
        lr=settings.lr,
        warmup_steps=settings.warmup,
        decay_fraction=settings.decay,
        log_every=NEVER,
        checkpoint_every=NEVER,
        resume="never",
        **options,
    )


@torch.no_grad()
def reconstruct(sae: TopKSAE, x: Tensor) -> tuple[Latents, Tensor]:
    latents = sae.encode(x)
    return latents, sae.decode(latents)
