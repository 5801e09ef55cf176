"""What all architectures share: parameters, the sparse interface, the decoder constraint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from temporal_sae.errors import check_int
from temporal_sae.latents import Latents
from temporal_sae.sae.saving import write_folder


@dataclass(frozen=True)
class StepContext:
    """What an architecture may want to know about the state of training.

    Attributes:
        step: steps done so far.
        dead: bool [d_sae], latents silent for at least `trainer.dead_after_tokens`; None while
            there is none for certain, so that an architecture can skip the work.
    """

    step: int
    dead: Bool[Tensor, " d_sae"] | None = None


@dataclass(frozen=True)
class StepOutput:
    """The forward pass of one training step.

    Attributes:
        x_hat: reconstruction, [tokens, d_in].
        latents: sparse latents, whose values carry the gradient.
        terms: the architecture's own loss terms by name, already weighted.
    """

    x_hat: Float[Tensor, "tokens d_in"]
    latents: Latents
    terms: dict[str, Tensor] = field(default_factory=dict)


class SparseAutoencoder(nn.Module, ABC):
    """Encoder `W_enc [d_in, d_sae]`, `b_enc [d_sae]`; decoder `W_dec [d_sae, d_in]`, `b_dec`.

    Decoder rows are random directions of unit length and the encoder starts as their transpose.

    Args:
        d_in: width of the activations.
        d_sae: number of latents.
    """

    architecture: ClassVar[str]

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__()
        self.d_in = check_int("d_in", d_in, 1)
        self.d_sae = check_int("d_sae", d_sae, 1)
        directions = torch.nn.functional.normalize(torch.randn(d_sae, d_in), dim=-1)
        self.W_dec = nn.Parameter(directions)
        # Row-major like everything a checkpoint restores: Adam's fused kernel walks a parameter and
        # its moments as they lie in memory.
        self.W_enc = nn.Parameter(directions.T.contiguous())
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @abstractmethod
    def encode_dense(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_sae"]:
        """Latents as a dense matrix, zero where not active."""

    @abstractmethod
    def training_step(self, x: Float[Tensor, "tokens d_in"], context: StepContext) -> StepOutput:
        """Reconstruct a batch, keeping what the losses and the tracker need."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The constructor arguments that define the inference-time function."""

    def default_lr(self) -> float:
        """The learning rate used when `trainer.lr` is null."""
        return 3e-4

    def pre_activations(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_sae"]:
        """(x - b_dec) W_enc + b_enc."""
        return torch.addmm(self.b_enc, x - self.b_dec, self.W_enc)

    def encode(self, x: Float[Tensor, "tokens d_in"]) -> Latents:
        """Sparse latents of each token."""
        return Latents.from_dense(self.encode_dense(x))

    def decode(self, latents: Latents) -> Float[Tensor, "tokens d_in"]:
        """Σ_k values_k W_dec[indices_k] + b_dec, touching only the rows that are active."""
        return self.b_dec + torch.nn.functional.embedding_bag(
            latents.indices.clamp(min=0),
            self.W_dec,
            per_sample_weights=latents.values,
            mode="sum",
        )

    def decode_dense(self, acts: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_in"]:
        """acts W_dec + b_dec."""
        return torch.addmm(self.b_dec, acts, self.W_dec)

    def forward(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
        """Encode and decode."""
        return self.decode_dense(self.encode_dense(x))

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Drop the part of W_dec's gradient along each row: the constraint would undo it anyway."""
        if self.W_dec.grad is not None:
            along = (self.W_dec.grad * self.W_dec).sum(-1, keepdim=True)
            self.W_dec.grad.addcmul_(along, self.W_dec, value=-1)

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Rescale decoder rows to unit length."""
        self.W_dec.div_(self.W_dec.norm(dim=-1, keepdim=True).clamp(min=1e-12))

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        """Turn an SAE trained on x / scale into the one that takes x itself.

        Latents and biases grow by `scale`, the directions stay.
        """
        self.b_enc.mul_(scale)
        self.b_dec.mul_(scale)

    def save(self, folder: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
        """Write `cfg.json` and `sae_weights.safetensors`, which SAELens and `load_sae` read.

        Args:
            folder: is created if missing.
            metadata: facts about where the SAE belongs: `model_name`, `hook_name`, …
        """
        config = {"architecture": self.architecture, **self.config()}
        write_folder(folder, config, dict(self.named_parameters()), metadata or {})
