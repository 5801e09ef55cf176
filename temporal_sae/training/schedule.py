"""The learning rate over a run."""

from __future__ import annotations


def learning_rate_factor(
    step: int, total_steps: int, warmup_steps: int, decay_fraction: float
) -> float:
    """Share of the full rate at `step` (0, 1, …): linear warm-up, plateau, linear decay to 0.

    The decay takes the last `decay_fraction` of the steps and would reach 0 at `total_steps`.
    """
    warm = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    decay_steps = decay_fraction * total_steps
    left = (total_steps - step) / decay_steps if decay_steps else 1.0
    return min(1.0, warm, left)
