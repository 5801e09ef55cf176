"""Rows and dictionaries that are written down, to compute scores by hand."""

from types import SimpleNamespace

import torch

from temporal_sae.activations import Rows
from temporal_sae.latents import Latents
from temporal_sae.sae import StandardSAE


class ByHand:
    """A source of the rows whose features have given values, in three batches.

    Args:
        values: of all features in each row.
        parents: of each feature that has one.
        true, spurious: pairs.
        directions: of the features; at right angles unless given.
    """

    device = torch.device("cpu")
    held_out_advice = ""

    def __init__(self, values, parents=(), true=(), spurious=(), directions=None):
        self.values = torch.as_tensor(values, dtype=torch.float32)
        n = self.values.shape[1]
        parent_of = torch.full((n,), -1)
        for child, parent in dict(parents).items():
            parent_of[child] = parent
        self.truth = SimpleNamespace(
            directions=torch.eye(n) if directions is None else torch.as_tensor(directions),
            parent_of=parent_of,
            true_pairs=torch.tensor([*true], dtype=torch.int64).view(-1, 2),
            spurious_pairs=torch.tensor([*spurious], dtype=torch.int64).view(-1, 2),
        )

    def open(self):
        """There is nothing to load."""

    def held_out_with_truth(self, n_sequences, batch_sequences, seed=0):
        """Yield all rows."""
        for values in self.values.tensor_split(3):
            there = torch.ones(1, len(values), dtype=torch.bool)
            rows = Rows(values @ self.truth.directions, None, there)
            yield rows, Latents.from_dense(values)


def dictionary(W_dec, W_enc=None, b_enc=None):
    """ReLU latents that read `W_enc`, the transpose of `W_dec` unless given, and write `W_dec`."""
    W_dec = torch.as_tensor(W_dec, dtype=torch.float32)
    sae = StandardSAE(W_dec.shape[1], W_dec.shape[0])
    sae.W_dec.data = W_dec.clone()
    read = W_dec.T if W_enc is None else torch.as_tensor(W_enc, dtype=torch.float32)
    sae.W_enc.data = read.clone().contiguous()
    sae.b_enc.data = torch.full((len(W_dec),), -1e-3) if b_enc is None else torch.as_tensor(b_enc)
    sae.b_dec.data.zero_()
    return sae
