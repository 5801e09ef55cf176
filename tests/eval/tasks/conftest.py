"""Pooled activations with a known structure."""

from types import SimpleNamespace

import pytest
import torch

from temporal_sae.eval.tasks.activations import Table
from temporal_sae.eval.tasks.python_sources import KINDS

D = 12


class Planted:
    """Stands for CellActivations: rows around a mean for each cell, seen through an SAE.

    Package p moves axis p, kind k moves axis 6 + k. The SAE has latents ReLU(x) and ReLU(-x), so
    it loses nothing; or none that is ever active. `larger` multiplies the latents.
    """

    def __init__(
        self,
        packages=("a", "b", "c"),
        package=2.0,
        kind=2.0,
        zeros=False,
        shuffled=False,
        larger=1.0,
    ):
        axes = torch.eye(D)
        self.snippets = SimpleNamespace(packages=packages)
        self.sae = SimpleNamespace(W_dec=torch.cat([axes, -axes]), d_sae=2 * D)
        self._size, self._zeros, self._shuffled = (package, kind), zeros, shuffled
        self._larger = larger

    def table(self, side, cells, n):
        generator = torch.Generator().manual_seed({"train": 1, "test": 2}[side])
        x = torch.randn(len(cells) * n, D, generator=generator)
        numbers = dict(zip(cells, torch.arange(len(x)).split(n), strict=True))
        for (package, kind), rows in numbers.items():
            x[rows, self.snippets.packages.index(package)] += self._size[0]
            x[rows, 6 + KINDS.index(kind)] += self._size[1]
        if self._shuffled:
            x = x[torch.randperm(len(x), generator=generator)]
        f = self._larger * torch.cat([x.relu(), (-x).relu()], dim=1)
        return Table(x, 0 * f if self._zeros else f, numbers)


@pytest.fixture
def planted():
    return Planted
