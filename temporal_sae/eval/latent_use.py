"""The share of tokens on which latents are active: a measure of the core evaluation."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.latents import Latents
from temporal_sae.metrics import ROW_SECTIONS, Metric, declare
from temporal_sae.registry import component
from temporal_sae.sae import SparseAutoencoder

DENSE_ABOVE = 0.1
of_use = partial(Metric, sections=ROW_SECTIONS, groups=("metrics", "misc_metrics"))


@component("measure")
class LatentUse:
    """Share of the latents that are active at all, and on more than 1 % or 10 % of the tokens.

    Args:
        sae: whose latents are counted.
        device: where the counts live.
    """

    metrics: ClassVar[tuple[Metric, ...]] = declare(
        of_use(name="frac_alive", better="higher"),
        of_use(
            name="dead_share", better="lower", label="dead latents", form="{:.1%}", headline=True
        ),
        of_use(name="freq_over_1_percent"),
        of_use(name="freq_over_10_percent", label="latents on > 10 %", form="{:.1%}"),
    )

    def __init__(self, sae: SparseAutoencoder, device: torch.device) -> None:
        self._fired = torch.zeros(sae.d_sae + 1, dtype=torch.int64, device=device)
        self._tokens = 0

    def add(
        self, x: Float[Tensor, "tokens d_in"], latents: Latents, x_hat: Float[Tensor, "tokens d_in"]
    ) -> None:
        """Count the active latents of a batch."""
        self._tokens += x.shape[0]
        last = self._fired.shape[0] - 1
        active = latents.active_indices()
        self._fired += torch.bincount(
            torch.where(active >= 0, active, last).flatten(), minlength=last + 1
        )

    def compute(self) -> dict[str, float]:
        """Return each metric by its name."""
        density = self._fired[:-1].double() / self._tokens
        return {
            "frac_alive": float((density > 0).double().mean()),
            "dead_share": float((density == 0).double().mean()),
            "freq_over_1_percent": float((density > 0.01).double().mean()),
            "freq_over_10_percent": float((density > DENSE_ABOVE).double().mean()),
        }
