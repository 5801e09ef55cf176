"""The causal effect of a latent: the language model without it, at the latent's top examples.

In the sequence that an example comes from, value · W_dec[latent] is taken away at the hook, at
every token of the context in which the latent fires; what the SAE does not reconstruct stays. The
effect is seen in the predictions from the example's token to the end of the context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from temporal_sae import signals
from temporal_sae.activations import ActivationSource
from temporal_sae.activations.hooks import Edit
from temporal_sae.activations.rows import TOKEN
from temporal_sae.activations.source import LANGUAGE_MODEL
from temporal_sae.atlas.examples import TOP
from temporal_sae.errors import RunError
from temporal_sae.sae import SparseAutoencoder

OTHER_TEXT = "the text is not the one that the atlas was made of"
SIMILAR = 0.1  # half of all activations differ by less from those of the atlas, relatively


class Predicts(Protocol):
    """A language model, as far as ablation needs it."""

    device: torch.device

    def plain_pass(self, tokens: Tensor) -> tuple[Tensor, Callable[[Edit], Tensor]]:
        """As `LanguageModel` has it."""
        ...


class Case(NamedTuple):
    """An example, in the sequence that it comes from.

    Attributes:
        row: of the table of examples.
        latent: that is taken away.
        tokens: ids of the sequence up to the end of the context, int32.
        own: position of the example's token in the sequence.
        context: positions of all tokens of the context, ascending; it may have begun before.
    """

    row: int
    latent: int
    tokens: Tensor
    own: int
    context: Tensor


class Effects(NamedTuple):
    """The effects of some ablations, each an array with a number for every case.

    Attributes:
        loss: by how much the mean loss of the next token grows, in nats.
        kl: mean divergence of the predictions without the latent from those with it, in nats.
        value: of the latent at the example's token.
    """

    loss: np.ndarray
    kl: np.ndarray
    value: np.ndarray


def why_not(source: ActivationSource) -> str | None:
    """Return why nothing can be ablated with a source, in words; None if it can."""
    if why := source.why_not(LANGUAGE_MODEL):
        return why
    if source.training_sequences(0) is None:
        return "these activations are not computed from text as it is read; activations=harvest are"
    return None


def cases_of(
    examples: pa.Table, rows: np.ndarray, source: ActivationSource, seed: int
) -> list[Case]:
    """Return some examples in the sequences that they come from, by their token.

    An example whose token is the last of its context or sequence is left out: it predicts nothing.

    Args:
        examples: the table.
        rows: numbers of the examples in it.
        source: of the pass that the table was made in.
        seed: of that pass.

    Raises:
        RunError: the source has other text.
    """
    chosen = examples.take(rows)
    names = ("latent", "token", "first", "place")
    latents, tokens, firsts, places = (chosen[name].to_numpy() for name in names)
    ids = chosen["token_ids"].combine_chunks()
    lengths, own_ids = ids.value_lengths().to_numpy(), ids.flatten().to_numpy()
    own_ids = own_ids[np.cumsum(lengths) - lengths + places] if len(rows) else own_ids
    order, found = np.argsort(tokens, kind="stable"), list[Case]()
    n_before = n_done = 0
    sequences = source.training_sequences(seed)
    assert sequences is not None
    while n_done < len(order):
        sequence, counted = next(sequences)
        (kept,) = torch.nonzero(counted, as_tuple=True)
        end = int(np.searchsorted(tokens[order], n_before + len(kept)))
        for case in order[n_done:end]:
            context = kept[max(0, firsts[case] - n_before) :]
            context = context[: lengths[case] - max(0, n_before - firsts[case])]
            own = int(kept[tokens[case] - n_before])
            if sequence[own, TOKEN] != own_ids[case]:
                raise RunError(OTHER_TEXT)
            if own < context[-1]:
                whole = sequence[: context[-1] + 1, TOKEN]
                found.append(Case(int(rows[case]), int(latents[case]), whole, own, context))
        n_before, n_done = n_before + len(kept), end
    return found


@torch.no_grad()
def effects_of(
    sae: SparseAutoencoder,
    model: Predicts,
    cases: Sequence[Case],
    batch_size: int,
    show: Callable[[int], None] = lambda n: None,
) -> Effects:
    """Return the effect of every case.

    Args:
        sae: takes the activations at the hook as they are, on the device of the model.
        model: the language model, and the place in it.
        cases: the examples.
        batch_size: sequences in a pass; each has its own latent taken away.
        show: is told how many are done.
    """
    found = np.empty((3, len(cases)))
    by_length = sorted(range(len(cases)), key=lambda n: len(cases[n].tokens))
    for first in range(0, len(cases), batch_size):
        signals.obey()
        own = by_length[first : first + batch_size]
        found[:, own] = _of_batch(sae, model, [cases[n] for n in own])
        show(first + len(own))
    return Effects(*found)


def _of_batch(sae: SparseAutoencoder, model: Predicts, cases: list[Case]) -> np.ndarray:
    """Return loss, divergence and value of some cases, in one pass and a part of another."""
    device = model.device
    tokens = _filled([case.tokens for case in cases]).to(device)
    ablated, predicted = torch.zeros(2, *tokens.shape, dtype=torch.bool, device=device)
    for row, case in enumerate(cases):
        ablated[row, case.context.to(device)] = True
        predicted[row, case.own : int(case.context[-1])] = True
    of, positions = predicted.nonzero(as_tuple=True)
    without = Without(sae, torch.tensor([case.latent for case in cases], device=device), ablated)
    logits, behind_hook = model.plain_pass(tokens)
    log_p = logits[of, positions].float().log_softmax(-1)
    del logits  # as large as anything here
    log_q = behind_hook(without)[of, positions].float().log_softmax(-1)
    targets = tokens[of, positions + 1, None]
    losses = (log_p - log_q).gather(-1, targets)[:, 0]
    divergences = (log_p.exp() * (log_p - log_q)).sum(-1)
    sums = torch.zeros(2, len(cases), dtype=torch.float64, device=device)
    sums.index_add_(1, of, torch.stack([losses, divergences]).double())
    values = without.values[range(len(cases)), [case.own for case in cases]]
    return torch.cat([sums / predicted.sum(1), values.double()[None]]).cpu().numpy()


def _filled(sequences: list[Tensor]) -> Tensor:
    """Return sequences below each other, int64; what is behind one changes nothing in it."""
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True).long()


class Without:
    """An edit that takes a latent away, another one in every sequence.

    Args:
        sae: has the latents.
        latents: one for each sequence.
        where: marks the tokens.

    Attributes:
        values: of the latents at these tokens, once they have been edited; 0 elsewhere.
    """

    def __init__(self, sae: SparseAutoencoder, latents: Tensor, where: Tensor) -> None:
        self.sae, self.latents, self.where = sae, latents, where
        self.values = torch.zeros(where.shape, device=where.device)

    def __call__(self, x: Tensor) -> Tensor:
        of, _ = self.where.nonzero(as_tuple=True)
        latents, W_dec = self.latents[of], self.sae.W_dec
        rows = x[self.where].to(W_dec.dtype)
        values, indices = self.sae.encode(rows)
        own = (values * (indices == latents[:, None])).sum(-1)
        self.values[self.where] = own.to(self.values.dtype)
        edited = x.clone()
        edited[self.where] = (rows - own[:, None] * W_dec[latents]).to(x.dtype)
        return edited


def check_values(found: np.ndarray, expected: np.ndarray) -> None:
    """Refuse another SAE or text than the atlas was made of, whose activations are others.

    Raises:
        RunError: see above.
    """
    differences = np.abs(found - expected) / np.maximum(np.abs(expected), 1e-12)
    if len(found) and np.median(differences) > SIMILAR:
        raise RunError("the SAE or its text is not the one that the atlas was made of")


def chosen_rows(examples: pa.Table, latents: range | Sequence[int], n_examples: int) -> np.ndarray:
    """Return the numbers of the top examples of some latents, at most so many of each."""
    latent, group, rank = (examples[name].to_numpy() for name in ("latent", "group", "rank"))
    wanted = (group == TOP) & (rank < n_examples) & np.isin(latent, np.asarray(latents))
    return np.flatnonzero(wanted)
