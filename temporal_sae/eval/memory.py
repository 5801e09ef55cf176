"""The memory of a forward pass in an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from temporal_sae.activations import ActivationSource
from temporal_sae.machine import Planned
from temporal_sae.sae import SparseAutoencoder

FLOAT = 4
LOGITS = 6  # as the model and the SAE have them, their logarithms, what compares them
DENSE_COPIES = 3  # pre-activations, latents, and what is counted of them


def of_batches(
    batches: Mapping[str, int], rows: int, source: ActivationSource, sae: SparseAutoencoder
) -> dict[str, Planned]:
    """Return the memory of the largest batch.

    Args:
        batches: sequences that are read at once, by the option that says how many.
        rows: of a sequence.
        source: logits are counted where it has a language model.
        sae: with shapes only.
    """
    largest = max(batches.values())
    options = tuple(f"eval.{option}" for option, n in batches.items() if n == largest)
    latents = DENSE_COPIES * largest * rows * sae.d_sae * FLOAT
    in_evaluation = partial(Planned, phase="evaluation")
    items = {"latents in evaluation": in_evaluation(latents, (*options, "sae.d_sae"))}
    model = source.model
    if model is None:
        return items
    rest = model.nbytes() - model.bytes_before_hook()
    config = model.model.config.get_text_config()
    # A pass that begins at the hook begins with the stream there, which is kept for it.
    logits = largest * rows * (LOGITS * int(config.vocab_size) + int(config.hidden_size)) * FLOAT
    smaller = (*options, "activations.context_size")
    items = {"logits in evaluation": in_evaluation(logits, smaller), **items}
    return items | ({"rest of the language model": in_evaluation(rest, ())} if rest else {})
