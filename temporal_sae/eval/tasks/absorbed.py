"""Criteria of absorption: the words of a concept whose main latents another latent replaces.

A latent that stands for "begins with s" may stay silent on a word such as " self" whose own latent
has taken in the direction of the letter: the word's latent has absorbed the letter. Definitions
as in SAEBench 0.6.0 (evals/absorption/feature_absorption_calculator.py); lower is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from temporal_sae.eval.tasks.absorption_probes import LinearProbes

SILENT = 1e-8  # an activation below this counts as none
FULL_COSINE = 0.025  # cosine to the probe that a fully absorbing latent has at least
FRACTION_COSINE = 0.1  # the same for latents that absorb a fraction
MIN_SHARE = 0.4  # share of the word's projection that absorbing latents explain at least
MAX_ABSORBERS = 3  # latents that can absorb a fraction together


class WordAbsorption(NamedTuple):
    """`full` and `fraction` of each word, and the latent that projects most on the probe."""

    full: Bool[Tensor, " words"]
    fraction: Float[Tensor, " words"]
    top: Int[Tensor, " words"]


@torch.no_grad()
def absorption_of_words(
    x: Float[Tensor, "words d_in"],
    acts: Float[Tensor, "words d_sae"],
    probe: Float[Tensor, " d_in"],
    W_dec: Float[Tensor, "d_sae d_in"],
    main: Sequence[int],
) -> WordAbsorption:
    """Absorption of words that share a concept, such as their first letter.

    With p the probe's unit direction and cos_j the cosine of decoder row j to it, latent j
    projects a_j cos_j, and the word x·p. A word is fully absorbed when all main latents are silent
    and the latent with the largest projection has cos ≥ 0.025 and at least 0.4 of x·p. The
    absorbed fraction looks at the up to three largest positive projections of latents with
    cos ≥ 0.1 that are not main, summing to s, and at m, the sum of the main latents' projections:
    0 if m ≥ x·p or s < 0.4 x·p; else 1 if m ≤ 0; else t / (t + m), t = min(s, x·p - m). Where
    x·p ≤ 0 the probe's direction is not there to be absorbed, and both are 0.

    Args:
        x: activations at the word.
        acts: latents of the same words, dense.
        probe: weights of the concept's ground-truth probe, of any length.
        W_dec: decoder.
        main: latents that stand for the concept.

    Returns:
        `fraction` in float64.
    """
    direction = probe / probe.norm()
    cosines = cosine_similarity(direction, W_dec, dim=-1)
    projections = acts * cosines
    total = (x @ direction).double()
    main_ids = torch.as_tensor(main, dtype=torch.int64, device=acts.device)

    absorbers = cosines >= FRACTION_COSINE
    absorbers[main_ids] = False
    others = torch.where(absorbers & (projections > 0), projections, 0.0)
    others_sum = others.topk(min(MAX_ABSORBERS, others.shape[1])).values.sum(-1).double()
    main_sum = projections[:, main_ids].sum(-1).double()
    absorbed = torch.minimum(others_sum, total - main_sum)
    fraction = (absorbed / (absorbed + main_sum)).clamp(0, 1)
    fraction = torch.where(main_sum <= 0, 1.0, fraction)
    none = (total <= 0) | (main_sum >= total) | (others_sum / total < MIN_SHARE)

    top = projections.argmax(-1)
    top_cosine = cosines[top].double()
    top_projection = acts.gather(1, top[:, None])[:, 0].double() * top_cosine
    full = (
        (acts[:, main_ids] < SILENT).all(-1)
        & (top_cosine >= FULL_COSINE)
        & (total > 0)
        & (top_projection / total >= MIN_SHARE)
    )
    return WordAbsorption(full, torch.where(none, 0.0, fraction), top)


class ConceptAbsorption(NamedTuple):
    """Indices of the words that were looked at for a concept, and what was found on them."""

    words: Int[Tensor, " words"]
    found: WordAbsorption


@torch.no_grad()
def absorption_by_concept(
    x: Float[Tensor, "words d_in"],
    acts: Float[Tensor, "words d_sae"],
    labels: Bool[Tensor, "words concepts"],
    probes: LinearProbes,
    W_dec: Float[Tensor, "d_sae d_in"],
    main: Sequence[Sequence[int]],
) -> list[ConceptAbsorption]:
    """Absorption of each concept (a first letter), on words that have it and whose probe says so.

    Args:
        x: activations at the test words.
        acts: latents of the same words, dense.
        labels: which word has which concept.
        probes: ground truth; one a concept.
        W_dec: decoder.
        main: main latents of each concept.
    """
    right = labels & (probes.scores(x) > 0)
    results = []
    for concept, own_main in enumerate(main):
        words = right[:, concept].nonzero()[:, 0]
        direction = probes.weights[concept]
        found = absorption_of_words(x[words], acts[words], direction, W_dec, own_main)
        results.append(ConceptAbsorption(words, found))
    return results
