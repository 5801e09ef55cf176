"""Inputs that the kernels are tested on."""

from typing import NamedTuple

import torch
from torch import Tensor

from temporal_sae.kernels.windows import naive


def random_rows(seed, tokens, n, k, full=0.8):
    """Latents of some tokens: distinct, popular ones more often, some slots empty."""
    generator = torch.Generator().manual_seed(seed)
    popularity = 1 / torch.arange(1, n + 1).float()
    indices = torch.multinomial(popularity.expand(tokens, n), k, generator=generator)
    empty = torch.rand(tokens, k, generator=generator) >= full
    return naive.sorted_rows(indices.masked_fill(empty, -1), n)


def everywhere(tokens, n, k):
    """Latent n - 1 in every token, the others in turn."""
    others = (torch.arange(tokens)[:, None] + torch.arange(k - 1)) % (n - 1)
    return naive.sorted_rows(torch.cat([others, torch.full((tokens, 1), n - 1)], 1), n)


WINDOWS = {
    "random": lambda: (random_rows(0, 50, 37, 6), 37),
    "wide": lambda: (random_rows(1, 33, 70, 40), 70),
    "odd sizes": lambda: (random_rows(2, 61, 131, 7), 131),
    "one slot": lambda: (random_rows(3, 20, 9, 1), 9),
    "one latent": lambda: (torch.zeros(10, 1, dtype=torch.int32), 1),
    "empty": lambda: (torch.full((8, 3), -1, dtype=torch.int32), 5),
    "one token": lambda: (random_rows(4, 1, 12, 5), 12),
    "mostly empty": lambda: (random_rows(5, 64, 300, 5, full=0.2), 300),
    "one everywhere": lambda: (everywhere(65, 40, 4), 40),
    "same token repeated": lambda: (random_rows(6, 1, 30, 6).expand(130, 6).contiguous(), 30),
    "more than a block": lambda: (random_rows(7, 200, 520, 20), 520),
}


def later_pairs(n):
    return torch.triu_indices(n, n, 1)


class Inputs(NamedTuple):
    """Some tokens, the latents that they are about, and matrices to gather from."""

    indices: Tensor
    values: Tensor
    n: int
    W: Tensor
    X: Tensor

    def acts(self):
        """The values as a dense matrix [B, F]."""
        dense = torch.zeros(len(self.indices), self.n + 1)
        filled = torch.where(self.indices >= 0, self.indices, self.n)
        return dense.scatter(1, filled, self.values)[:, : self.n]


def inputs_of(indices, n, d):
    values = torch.randn(indices.shape) * (indices >= 0)
    return Inputs(indices, values, n, torch.randn(n, d), torch.randn(len(indices), d))


def random_inputs(tokens, n, k, d, full=0.8):
    """Distinct latents for each token, some slots empty."""
    indices = torch.rand(tokens, n).argsort(1)[:, :k]
    return inputs_of(indices.masked_fill(torch.rand(tokens, k) >= full, -1), n, d)


def one_everywhere():
    others = (torch.arange(70)[:, None] + torch.arange(3)) % 39
    return inputs_of(torch.cat([others, torch.full((70, 1), 39)], 1), 40, 33)


INPUTS = {
    "random": lambda: random_inputs(40, 37, 6, 45),
    "several tiles": lambda: random_inputs(9, 40, 20, 300),
    "more tokens than at once": lambda: random_inputs(70, 20, 3, 16),
    "one slot": lambda: random_inputs(20, 9, 1, 128),
    "one latent": lambda: inputs_of(torch.zeros(10, 1, dtype=torch.int64), 1, 129),
    "all slots empty": lambda: inputs_of(torch.full((8, 3), -1), 5, 17),
    "one token": lambda: random_inputs(1, 12, 5, 40),
    "no token": lambda: random_inputs(0, 12, 5, 40),
    "latents without a token": lambda: random_inputs(30, 90, 5, 8, full=0.3),
    "one everywhere": one_everywhere,
    "one column": lambda: random_inputs(15, 11, 4, 1),
    "all slots full": lambda: random_inputs(33, 8, 8, 20, full=2.0),
}


def assert_near(ours, expected):
    """Equal as far as sums of float32 in another order are."""
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * largest)


def unit(matrix):
    return matrix / matrix.norm(dim=-1, keepdim=True)
