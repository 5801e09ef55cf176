"""Columns of `latents.parquet` on the logits: tokens that a latent makes likelier, or less so."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from temporal_sae.activations.unembedding import Unembedding
from temporal_sae.atlas.examples import TextOf
from temporal_sae.atlas.summaries import N_BINS

N_LOGITS = 10
VALUES_AT_ONCE = 2**24


@torch.no_grad()
def logit_columns(W_dec: Tensor, unembedding: Unembedding, text_of: TextOf) -> dict[str, object]:
    """Return the columns of all latents.

    Args:
        W_dec: decoder rows, [d_sae, d_in].
        unembedding: of the language model.
        text_of: the strings of token ids.
    """
    vocab = len(unembedding.weight)
    n = min(N_LOGITS, vocab)
    names = ("top_logit_ids", "top_logits", "bottom_logit_ids", "bottom_logits")
    found: dict[str, list[np.ndarray]] = {
        name: [] for name in (*names, "logit_histogram", "logit_range")
    }
    for rows in W_dec.detach().split(max(1, VALUES_AT_ONCE // vocab)):
        effects = unembedding.effects(rows)
        for name, sign in (("top", 1), ("bottom", -1)):
            values, ids = (sign * effects).topk(n)
            found[f"{name}_logits"].append((sign * values).cpu().numpy())
            found[f"{name}_logit_ids"].append(ids.int().cpu().numpy())
        ends = torch.stack([effects.amin(1), effects.amax(1)], 1)
        found["logit_range"].append(ends.cpu().numpy())
        found["logit_histogram"].append(histograms(effects, ends).cpu().numpy())
    columns = {name: np.concatenate(parts) for name, parts in found.items()}
    texts = {f"{name}_logit_tokens": columns[f"{name}_logit_ids"] for name in ("top", "bottom")}
    lists: dict[str, object] = {name: list(column) for name, column in columns.items()}
    return lists | {name: [text_of(ids.tolist()) for ids in rows] for name, rows in texts.items()}


def histograms(effects: Tensor, ends: Tensor) -> Tensor:
    """Return how many values of each row are in each of 40 equal intervals between its ends."""
    width = (ends[:, 1:] - ends[:, :1]).clamp_min(torch.finfo(ends.dtype).tiny)
    bins = ((effects - ends[:, :1]) / width * N_BINS).long().clamp_(0, N_BINS - 1)
    counts = torch.zeros(len(effects), N_BINS, dtype=torch.long, device=effects.device)
    return counts.scatter_add_(1, bins, torch.ones_like(bins))
