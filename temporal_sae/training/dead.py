"""Latents that have been silent for too long, counted in tokens."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class DeadLatents:
    """Tokens since each latent was last active, with a value > 0 and not merely selected.

    Args:
        d_sae: number of latents.
        after_tokens: a latent is dead when it has been silent for at least that many tokens.
        device: where the counters live.
    """

    def __init__(self, d_sae: int, after_tokens: int, device: torch.device) -> None:
        self.after_tokens = after_tokens
        self.tokens = 0
        self.silent_for = torch.zeros(d_sae, dtype=torch.int64, device=device)

    def update(self, fired: Bool[Tensor, " d_sae"], tokens: int) -> None:
        """Count a batch of so many tokens, in some of which `fired` were active."""
        self.tokens += tokens
        self.silent_for += tokens
        self.silent_for.masked_fill_(fired, 0)

    def forget(self, latents: Bool[Tensor, " d_sae"]) -> None:
        """Latents that have just been made anew are not dead."""
        self.silent_for.masked_fill_(latents, 0)

    def mask(self) -> Bool[Tensor, " d_sae"]:
        """Mark the dead latents."""
        return self.silent_for >= self.after_tokens

    def mask_if_any(self) -> Bool[Tensor, " d_sae"] | None:
        """Return the mask, or None while no latent is dead.

        On a GPU the mask is returned once enough tokens have passed for one to be dead, whether or
        not there is one: looking would mean waiting.
        """
        if self.tokens < self.after_tokens:
            return None
        mask = self.mask()
        return mask if mask.device.type != "cpu" or bool(mask.any()) else None

    def share(self) -> Float[Tensor, ""]:
        """Share of the latents that are dead."""
        return self.mask().float().mean()

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "silent_for": self.silent_for}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tokens = int(state["tokens"])
        self.silent_for.copy_(state["silent_for"])
