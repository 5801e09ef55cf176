"""Effects of latents on a probe, and the probe's answers without them.

A latent's effect on a probe is, as in SAEBench's SCR and TPP, the difference of its mean activation
in both classes times how far its decoder row moves the probe. Latents are set to zero at every
token and the reconstruction error is kept, so a text's activations lose Σ_j f_j W_dec[j] over the
ablated j. That and the mean over tokens are linear: it is enough to know the mean latents.

SAEBench also ablates at padding, where it sets activations to zero, what the SAE makes of zeros;
here padding does not count.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.eval.tasks.equal_norm import equal_norm_factor
from temporal_sae.eval.tasks.probes import LinearProbe, Rows


def mean_difference(f: Float[Tensor, "rows d_sae"], rows: Rows) -> Float[Tensor, " d_sae"]:
    """Mean latents of the positive rows minus those of the negative ones."""
    chosen = f[rows.numbers]
    return chosen[rows.labels == 1].mean(0) - chosen[rows.labels == 0].mean(0)


def removal_effects(
    f: Float[Tensor, "rows d_sae"],
    rows: Rows,
    probe: LinearProbe,
    W_dec: Float[Tensor, "d_sae d_in"],
) -> Float[Tensor, " d_sae"]:
    """SCR: |mean difference × (probe · decoder row)|, whichever class the latent speaks for."""
    return (mean_difference(f, rows) * (W_dec @ probe.weight)).abs()


def class_effects(
    f: Float[Tensor, "rows d_sae"],
    rows: Rows,
    probe: LinearProbe,
    W_dec: Float[Tensor, "d_sae d_in"],
) -> Float[Tensor, " d_sae"]:
    """TPP: mean difference × (probe · decoder row), of latents more active in the class."""
    return mean_difference(f, rows).clamp(min=0) * (W_dec @ probe.weight)


def strongest(effects: Float[Tensor, " d_sae"], n: int) -> Int[Tensor, " at_most_n"]:
    """Return the n latents of the largest effect, or as many as have an effect other than 0."""
    return effects.topk(min(n, int((effects != 0).sum()))).indices


def logits_without(
    ablated: Int[Tensor, " n"],
    x: Float[Tensor, "rows d_in"],
    f: Float[Tensor, "rows d_sae"],
    probe: LinearProbe,
    W_dec: Float[Tensor, "d_sae d_in"],
    share: float | None = None,
) -> Float[Tensor, " rows"]:
    """Return the probe's logits of pooled activations once some latents are set to zero.

    With a share, what that takes away is scaled to it; see `equal_norm`.
    """
    if share is None:
        return probe.logits(x) - f[:, ablated] @ (W_dec[ablated] @ probe.weight)
    removed = f[:, ablated] @ W_dec[ablated]
    return probe.logits(x) - equal_norm_factor(removed, x, share) * (removed @ probe.weight)
