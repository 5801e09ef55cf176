"""Activations of SynthSAEBench-16k (Chanin et al. 2026, arXiv 2602.14687), through SAELens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.activations.known import BLOCK_ROWS, KnownActivations, digest_of
from temporal_sae.activations.prefetch import AUTO
from temporal_sae.activations.rows import Rows
from temporal_sae.data import Split
from temporal_sae.errors import InvalidOption, RunError, check_bool, check_int, one_line
from temporal_sae.latents import Latents
from temporal_sae.registry import component

INSTALL = "pip install 'temporal_sae[bench]'"
MAX_DEPTH, BRANCHING = 3, 4


@dataclass(frozen=True)
class BenchmarkTruth:
    """The features of a synthetic model of SAELens; see `World`. It has no pairs.

    Attributes:
        directions: unit rows, float32 [n_features, d_in].
        parent_of: the parent of each feature, -1 where it has none, [n_features].
        true_pairs, spurious_pairs: none, [0, 2].
    """

    directions: Float[Tensor, "n_features d_in"]
    parent_of: Int[Tensor, " n_features"]
    true_pairs: Int[Tensor, "0 2"]
    spurious_pairs: Int[Tensor, "0 2"]


@component("activations")
class SynthSAEBenchActivations(KnownActivations):
    """Rows of the benchmark's synthetic model, each of which is drawn independently.

    The model is made from the published recipe and a seed, or loaded. Rates, trees, correlations
    and values are then SAELens's; the benchmark's published scores belong to the loaded model.

    Args:
        name: null: make the model from its recipe; or a folder or a repository of the hub that
            holds one, such as `decoderesearch/synth-sae-bench-16k-v1`.
        n_features: of the recipe; those of the trees fire most.
        d_in: of the recipe: width of the activations.
        n_roots: of the recipe: trees, of four children a parent and four levels.
        orthogonal_steps: of the recipe: gradient steps that make the directions more orthogonal.
        scale_children: of the recipe: a child's value is scaled as its parent's is. The model that
            was published on the hub does not.
        seed: fixes the model that is made; which rows are drawn depends on the run's seed.
        buffer_tokens, normalize, outliers, outlier_factor, prefetch: see `StreamOptions`.
        device: where the model and the batches are; it decides which numbers a seed stands for.

    Attributes:
        truth: its features.

    Raises:
        InvalidOption: an option is out of range.
    """

    def __init__(
        self,
        name: str | None = None,
        n_features: int = 16384,
        d_in: int = 768,
        n_roots: int = 128,
        orthogonal_steps: int = 100,
        scale_children: bool = True,
        seed: int = 42,
        buffer_tokens: int = 8192,
        normalize: bool = True,
        outliers: str = "keep",
        outlier_factor: float = 10.0,
        prefetch: str | bool | int = AUTO,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(buffer_tokens, normalize, outliers, outlier_factor, prefetch)
        if name is not None and (not isinstance(name, str) or not name):
            raise InvalidOption("name", name, "null, a folder or a repository of the hub")
        self.source = name
        self.n_roots = check_int("n_roots", n_roots, 1)
        self.d_in = check_int("d_in", d_in, 1)
        self.n_features = check_int("n_features", n_features, 1)
        needed = self.n_roots * sum(BRANCHING**level for level in range(MAX_DEPTH + 1))
        if self.n_features < needed:
            allowed = f"at least {needed}, for {self.n_roots} trees"
            raise InvalidOption("n_features", self.n_features, allowed)
        self.orthogonal_steps = check_int("orthogonal_steps", orthogonal_steps, 0)
        self.scale_children = check_bool("scale_children", scale_children)
        self.seed = check_int("seed", seed, 0)
        self.device, self.dtype = torch.device(device), torch.float32
        self.name = name or f"SynthSAEBench with {self.n_features} features"
        self.truth: BenchmarkTruth | None = None

    def open(self) -> None:
        """Make or load the model.

        Raises:
            RunError: SAELens is missing, or the model cannot be loaded.
        """
        if self.truth is not None:
            return
        self._model = self._load() if self.source else self._make()
        directions = self._model.feature_dict.feature_vectors.detach().float().cpu()
        self.d_in = directions.shape[1]
        none = torch.empty(0, 2, dtype=torch.long)
        parent_of = parents_in(self._model.hierarchy, len(directions))
        self.truth = BenchmarkTruth(directions, parent_of, none, none)

    def _make(self) -> Any:
        synthetic = sae_lens_synthetic()
        recipe = synthetic.SyntheticModelConfig(
            num_features=self.n_features,
            hidden_dim=self.d_in,
            firing_probability=synthetic.ZipfianFiringProbabilityConfig(0.5, 0.4, 5e-4),
            hierarchy=synthetic.HierarchyConfig(
                total_root_nodes=self.n_roots,
                branching_factor=BRANCHING,
                max_depth=MAX_DEPTH,
                mutually_exclusive_portion=1.0,
                compensate_probabilities=True,
                scale_children_by_parent=self.scale_children,
            ),
            orthogonalization=synthetic.OrthogonalizationConfig(self.orthogonal_steps, 3e-4),
            correlation=synthetic.LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
            mean_firing_magnitudes=synthetic.LinearMagnitudeConfig(start=5.0, end=4.0),
            std_firing_magnitudes=synthetic.FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
            bias=0.5,
            seed=self.seed,
        )
        return synthetic.SyntheticModel(recipe, device=str(self.device))

    def _load(self) -> Any:
        synthetic = sae_lens_synthetic()
        try:
            return synthetic.SyntheticModel.load_from_source(self.source, device=str(self.device))
        except Exception as error:
            told = f"activations.name={self.source}: no synthetic model of SAELens can be read"
            raise RunError(f"{told} ({one_line(error)})") from error

    def block(self, split: Split, seed: int, number: int) -> tuple[Rows, Latents]:
        """Return the rows of a block and what fires in them, the same whenever asked for."""
        self.open()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # SAELens draws from torch's own generator
            torch.manual_seed(digest_of(split, self.seed, seed, number))
            x, features = self._model.sample_with_features(BLOCK_ROWS)
        row = torch.arange(number * BLOCK_ROWS, (number + 1) * BLOCK_ROWS)
        places = torch.stack([torch.full_like(row, -1), row, torch.zeros_like(row)], dim=1).int()
        return Rows(x, places.to(self.device)), Latents.from_dense(features)

    def metadata(self) -> dict[str, Any]:
        """There is no language model."""
        return {**super().metadata(), "dataset_path": "SynthSAEBench"}


def sae_lens_synthetic() -> Any:
    """Return the module of SAELens that makes synthetic models.

    Raises:
        RunError: it is not installed.
    """
    try:
        from sae_lens import synthetic  # slow to import, and an extra
    except ImportError as error:
        raise RunError(f"activations=synthsaebench: needs SAELens ({INSTALL})") from error
    return synthetic


def parents_in(hierarchy: Any, n_features: int) -> Int[Tensor, " n_features"]:
    """Return the parent of each feature in the trees of a model of SAELens, -1 for none."""
    parent_of = torch.full((n_features,), -1)
    nodes = list(hierarchy.roots) if hierarchy is not None else []
    while nodes:
        node = nodes.pop()
        for child in node.children:
            parent_of[child.feature_index] = node.feature_index
        nodes.extend(node.children)
    return parent_of
