"""The base of all architectures: parameters, the sparse interface, the decoder constraint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from temporal_sae.distributed import world_size
from temporal_sae.errors import check_int
from temporal_sae.kernels import selection
from temporal_sae.kernels.row_gradient import RowGradients
from temporal_sae.latents import Latents, as_rows, with_leading
from temporal_sae.loss.terms import auxk_loss
from temporal_sae.machine import Planned
from temporal_sae.sae.saving import write_folder
from temporal_sae.sae.step_ops import (
    Chosen,
    Encoded,
    SparseProduct,
    prefers_screening,
    prefers_sparse,
)

TRACKED_LATENTS = 512
DENSE_COPIES_OF_A_BATCH = 5  # pre-activations, latents and their gradients


@dataclass(frozen=True)
class StepContext:
    """State of the training that an architecture may use in a step.

    Attributes:
        step: steps done so far.
        dead: bool [d_sae], latents silent for at least `trainer.dead_after_tokens`; None while
            there is none for certain, so that an architecture can skip the work.
        sparse: whether to compute by gathering the active rows; None for whatever is faster.
        screened: whether to look for the latents by products of 8-bit integers first; None for
            whatever is faster.
        gradients: where those of the matrices go, if not to the parameters; with `sparse`, and of
            an SAE with `most_rows`.
    """

    step: int
    dead: Bool[Tensor, " d_sae"] | None = None
    sparse: bool | None = None
    screened: bool | None = None
    gradients: RowGradients | None = None


@dataclass(frozen=True)
class StepOutput:
    """The forward pass of one training step.

    Attributes:
        x_hat: reconstruction, [tokens, d_in].
        latents: sparse latents, whose values carry the gradient; at most `tracked_latents` a token.
        l0: mean number of active latents per token, none left out.
        fired: bool [d_sae], latents that are active in some token.
        terms: the architecture's own loss terms by name, already weighted.
        partial: reconstructions by parts of the dictionary, whose losses are averaged with that
            of `x_hat`.
        metrics: more to log of the step.
    """

    x_hat: Float[Tensor, "tokens d_in"]
    latents: Latents
    l0: Float[Tensor, ""]
    fired: Bool[Tensor, " d_sae"]
    terms: dict[str, Tensor] = field(default_factory=dict)
    partial: tuple[Float[Tensor, "tokens d_in"], ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


class SparseAutoencoder(nn.Module, ABC):
    """Encoder `W_enc [d_in, d_sae]`, `b_enc [d_sae]`; decoder `W_dec [d_sae, d_in]`, `b_dec`.

    Decoder rows are random directions of unit length, and the encoder starts as their transpose.
    All parameters are float32; with bfloat16 autocast the matrix products are not. Encoding and
    decoding take activations of any leading shape, `[d_in]` or `[batch, sequence, d_in]`, and a
    training step takes `[tokens, d_in]`.

    Args:
        d_in: width of the activations.
        d_sae: number of latents.
    """

    # Of the saved function, a name that SAELens knows if it can load it; else the class's name.
    architecture: ClassVar[str]
    # The option of `sae=` that it is, where it is saved as another's function; else `architecture`.
    trained_as: ClassVar[str]
    config_keys: ClassVar[tuple[str, ...]] = ("d_in", "d_sae")  # what `cfg.json` holds of it
    # What the reference results call its trainer and itself; else the class's name.
    reference_names: ClassVar[tuple[str, str]]
    # What decides its sparsity and upkeep: the reference results' name, and that of the attribute.
    reference_options: ClassVar[Mapping[str, str]] = {}
    activation_fn: ClassVar[str] = "relu"  # in SAEBench's records
    unit_decoder = True  # rows of the decoder are kept at length 1
    can_screen: ClassVar[bool] = False  # its latents can be found without the whole product
    # Latents of a token that the tracker sees at most, the largest ones. Without a k there may be
    # thousands in the first steps, and pairs grow with their square.
    tracked_latents = TRACKED_LATENTS

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "architecture"):
            cls.architecture = cls.__name__
        if "architecture" in vars(cls) and "trained_as" not in vars(cls):
            cls.trained_as = cls.architecture
        if not hasattr(cls, "reference_names"):
            cls.reference_names = (cls.__name__, cls.__name__)

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__()
        self.d_in = check_int("d_in", d_in, 1)
        self.d_sae = check_int("d_sae", d_sae, 1)
        directions = torch.randn(self.d_sae, self.d_in)
        if not directions.is_meta:  # a sum of nothing would import torch's compiler, for seconds
            directions /= directions.norm(dim=-1, keepdim=True)
        self.W_dec = nn.Parameter(directions)
        # In memory the encoder lies like the decoder, a latent after the other: its gradient is
        # summed latent by latent, and everything that walks both walks them alike.
        self.W_enc = nn.Parameter(directions.clone().T)
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(self.d_in))

    @abstractmethod
    def encode_dense(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_sae"]:
        """Latents as a dense matrix, zero where not active."""

    @abstractmethod
    def training_step(self, x: Float[Tensor, "tokens d_in"], context: StepContext) -> StepOutput:
        """Reconstruct a batch, keeping what the losses and the tracker need."""

    def after_step(
        self, x: Float[Tensor, "tokens d_in"], out: StepOutput, context: StepContext
    ) -> Bool[Tensor, " d_sae"] | None:
        """Update whatever gradients do not, once the weights have moved.

        Returns:
            Latents that have been made new, whose optimiser state no longer means anything; or
            None.
        """
        return None

    def planned_bytes(self, batch_size: int) -> dict[str, Planned]:
        """Return the bytes that training takes, by purpose; asked of an SAE with shapes only."""
        weights = sum(p.nbytes for p in self.parameters())
        of_a_batch = DENSE_COPIES_OF_A_BATCH * batch_size * self.d_sae * self.W_dec.itemsize
        return {
            "SAE, gradients, Adam": Planned(4 * weights, ("sae.d_sae",)),
            "batch": Planned(of_a_batch, ("trainer.batch_size", "sae.d_sae")),
        }

    def most_rows(self, batch_size: int) -> int | None:
        """Return how many latents a batch makes active at most.

        None where the gradients of its matrices have more sources than those latents and AuxK, or
        there is no such number: then they cannot be given by rows.
        """
        return None

    def default_lr(self) -> float:
        """Return the learning rate used when `trainer.lr` is null."""
        return 3e-4

    def pre_activations(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_sae"]:
        """(x - b_dec) W_enc + b_enc."""
        pre_acts = torch.addmm(self.b_enc, as_rows(x) - self.b_dec, self.W_enc)
        return with_leading(pre_acts, x.shape[:-1])

    def encode(self, x: Float[Tensor, "*tokens d_in"]) -> Latents:
        """Sparse latents of each token."""
        latents = Latents.from_dense(as_rows(self.encode_dense(x)))
        return latents.with_leading(x.shape[:-1])

    def decode(self, latents: Latents) -> Float[Tensor, "*tokens d_in"]:
        """Σ_k values_k W_dec[indices_k] + b_dec, touching only the rows that are active."""
        values, indices = latents.as_rows()
        chosen = Chosen(self.d_sae, indices, sparse=True)
        x_hat: Tensor = SparseProduct.apply(values, self.W_dec, chosen)
        return with_leading(x_hat + self.b_dec, latents.values.shape[:-1])

    def decode_dense(self, acts: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens d_in"]:
        """acts W_dec + b_dec."""
        x_hat = torch.addmm(self.b_dec, as_rows(acts), self.W_dec)
        return with_leading(x_hat, acts.shape[:-1])

    def forward(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_in"]:
        """Encode and decode."""
        return self.decode_dense(self.encode_dense(x))

    @torch.no_grad()
    def encoded(
        self, x: Float[Tensor, "tokens d_in"], gradients: RowGradients | None = None
    ) -> Encoded:
        """Return what a training step starts from: the encoder's product, made when asked for."""
        return Encoded(x - self.b_dec, self.W_enc, self.b_enc, self.b_dec, gradients)

    def screens(self, x: Tensor, k: int, context: StepContext) -> bool:
        """Return whether to look for about k latents a token without the whole product."""
        if context.screened is not None:
            return context.screened
        if context.sparse is False or torch.is_autocast_enabled(x.device.type):
            return False
        return world_size() == 1 and prefers_screening(x.device, self.d_in, self.d_sae, k)

    def choose(
        self, pre_acts: Tensor, thresholds: Float[Tensor, " d_sae"], context: StepContext
    ) -> Chosen:
        """Return the latents whose pre-activation exceeds a threshold; all where that is faster.

        How many there are depends on the data, so on a GPU, unless told to, all.
        """
        everything = Chosen(self.d_sae, None, sparse=False)
        if context.sparse is False or (context.sparse is None and pre_acts.device.type != "cpu"):
            return everything
        indices = selection.list_above(pre_acts, thresholds)
        if context.sparse or prefers_sparse(pre_acts.device, self.d_sae, indices.shape[1]):
            return Chosen(self.d_sae, indices, True, context.gradients)
        return everything

    def output(
        self,
        chosen: Chosen,
        acts: Tensor,
        x_hat: Float[Tensor, "tokens d_in"],
        terms: dict[str, Tensor],
        partial: tuple[Tensor, ...] = (),
        metrics: dict[str, float] | None = None,
    ) -> StepOutput:
        """Return the output of a step whose latents are `acts`, in the places of `chosen`."""
        with torch.no_grad():
            l0 = (acts > 0).sum(-1).float().mean()
            fired = chosen.fired(acts)
        latents = chosen.latents(acts, self.tracked_latents)
        return StepOutput(x_hat, latents, l0, fired, terms, partial, metrics or {})

    def auxk_terms(
        self, x: Tensor, x_hat: Tensor, weight: float, k_aux: int, context: StepContext
    ) -> dict[str, Tensor]:
        """AuxK, if there are dead latents and it has a weight."""
        if context.dead is None or not weight:
            return {}
        parameters = (self.W_enc, self.b_enc, self.b_dec, self.W_dec)
        loss = auxk_loss(x, x_hat, context.dead, parameters, k_aux, context.gradients)
        return {"auxk": weight * loss}

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        """Turn an SAE trained on x / scale into the one that takes x itself.

        Latents, biases and thresholds grow by `scale`, the directions stay.
        """
        self.b_enc.mul_(scale)
        self.b_dec.mul_(scale)

    def config(self) -> dict[str, Any]:
        """Return the constructor arguments that define the inference-time function."""
        return {key: getattr(self, key) for key in self.config_keys}

    def weights(self) -> dict[str, Tensor]:
        """Return the parameters of the inference-time function, by SAELens's names."""
        return {name: getattr(self, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a saved SAE."""
        return self.weights()

    @classmethod
    @torch.no_grad()
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Return the SAE that `config` and `tensors` were taken from.

        Raises:
            KeyError: something is missing, which is never guessed.
            ValueError: a tensor is unknown or has another shape.
        """
        arguments = {key: config[key] for key in cls.config_keys}
        with torch.device("meta"):  # a config may ask for any size: shapes first, then memory
            shapes = {name: own.shape for name, own in cls(**arguments).weights().items()}
        if extra := sorted(tensors.keys() - shapes.keys()):
            raise ValueError(f"{extra[0]}: this architecture has no such tensor")
        for name, expected in shapes.items():
            if (found := tensors[name].shape) != expected:
                raise ValueError(f"{name}: has shape {tuple(found)}, must have {tuple(expected)}")
        sae = cls(**arguments)
        for name, own in sae.weights().items():
            own.copy_(tensors[name])
        return sae

    def save(self, folder: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
        """Write `cfg.json` and `sae_weights.safetensors`, which `load_sae` reads.

        SAELens reads them too where it knows the `architecture` as a function.

        Args:
            folder: is created if missing.
            metadata: facts about where the SAE belongs: `model_name`, `hook_name`, …
        """
        config = {"architecture": self.architecture, **self.config()}
        write_folder(folder, config, self.tensors(), metadata or {})
