"""The dense way that the reference transcript did it, to be measured against: not for use.

Masks of tokens x latents, products of F x F, and every step of the formulas as a matrix of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor


class DenseTranscript:
    """Windowed co-activation and the penalty with F x F matrices throughout."""

    def __init__(self, n_latents: int, window_size: int, device: torch.device) -> None:
        self.n_latents, self.window_size = n_latents, window_size
        self.counts = torch.zeros(n_latents, n_latents, device=device)
        self.averages = torch.zeros_like(self.counts)
        self.rates = torch.zeros_like(self.counts)
        self.tokens = 0

    @torch.no_grad()
    def update(self, indices: Tensor) -> None:
        """Count a batch; close the window once enough tokens are there."""
        mask = self._dense(indices, torch.ones_like(indices, dtype=torch.float32))
        self.counts += mask.T @ mask
        self.tokens += mask.shape[0]
        if self.tokens < self.window_size:
            return
        self.rates = self.counts / self.tokens
        alpha = (self.rates.diagonal() / 1000).clamp(max=0.1)[:, None]
        self.averages = (1 - alpha) * self.averages + alpha * self.rates
        self.counts, self.tokens = torch.zeros_like(self.counts), 0

    def _dense(self, indices: Tensor, values: Tensor) -> Tensor:
        empty = torch.zeros(len(indices), self.n_latents + 1, device=indices.device)
        slots = torch.where(indices >= 0, indices, self.n_latents).long()
        return empty.scatter(1, slots, values)[:, : self.n_latents]

    def penalty(self, indices: Tensor, values: Tensor) -> Tensor:
        """Σ w (f_iᵀf_j / B)² / Σ w over the activations of a batch."""
        acts = self._dense(indices, values)
        overlap = (acts.T @ acts / acts.shape[0]).square()
        larger = torch.maximum(self.rates, self.averages)
        instability = (self.rates - self.averages).abs() / (larger + 1e-8)
        weights = self.rates * (1 + instability)
        weights = weights * (1 - torch.eye(self.n_latents, device=acts.device))
        return (weights * overlap).sum() / weights.sum()
