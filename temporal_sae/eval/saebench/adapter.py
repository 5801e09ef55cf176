"""Our SAE as sae_bench wants it: by what it can do, not by what it inherits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from temporal_sae.eval.saebench.options import Job
from temporal_sae.sae import SparseAutoencoder

UNIT_TOLERANCE = 1e-6  # of a row's length, in float32
Observer = Callable[[Tensor, Tensor], None]


@dataclass
class SAEBenchConfig:
    """`sae_cfg_dict` of SAEBench's records; sae_bench adds attributes, which are not written."""

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    architecture: str
    activation_fn_str: str
    prepend_bos: bool
    dtype: str
    device: str = ""
    context_size: int | None = None
    hook_head_index: int | None = None
    apply_b_dec_to_input: bool = True
    finetuning_scaling_factor: float | None = None
    normalize_activations: str = "none"
    dataset_path: str = ""
    dataset_trust_remote_code: bool = True
    seqpos_slice: tuple[int | None, ...] = (None,)
    training_tokens: int | None = None
    sae_lens_training_version: str | None = None
    neuronpedia_id: str | None = None
    jump_coeff: float | None = None  # a published file has it
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields above, and nothing that was added since."""
        return asdict(self)


class SAEBenchSAE(nn.Module):
    """One of our SAEs with the methods and attributes that sae_bench uses.

    Rows of the decoder are unit vectors here, and the latents grow by what the rows lose, so that
    the reconstruction stays what it was. A row of zeros stays one, and its latent, which adds
    nothing, counts as off. The SAE keeps its own rows, which its encoder may read.

    Args:
        sae: any architecture.
        job: the model and the place in it.
    """

    _scale: Float[Tensor, " F"] | None
    _unit_rows: Float[Tensor, "F D"] | None

    def __init__(self, sae: SparseAutoencoder, job: Job) -> None:
        super().__init__()
        self.sae = sae.requires_grad_(False)
        self.observer: Observer | None = None  # is shown every input with its latents
        norms, unit_rows = lengths_and_unit_rows(sae.W_dec)
        self.register_buffer("_scale", norms)
        self.register_buffer("_unit_rows", unit_rows)
        self.cfg = SAEBenchConfig(
            model_name=job.model_name,
            d_in=sae.d_in,
            d_sae=sae.d_sae,
            hook_layer=job.layer,
            hook_name=job.hook_name,
            architecture=job.architecture,
            activation_fn_str=sae.activation_fn,
            prepend_bos=job.prepend_bos,
            dtype=name_of(sae.W_dec.dtype),
        )

    def __getattr__(self, name: str) -> Any:
        """Return the SAE's weights, those of the encoder as they belong to the unit rows."""
        if name == "W_dec":
            return self.sae.W_dec if self._unit_rows is None else self._unit_rows
        if name == "b_dec":
            return self.sae.b_dec
        if name in ("W_enc", "b_enc", "b_mag"):  # b_mag: of a gated SAE only
            return self._scaled(getattr(self.sae, name))
        return super().__getattr__(name)

    @property
    def device(self) -> torch.device:
        return self.sae.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        return self.sae.W_dec.dtype

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast; the config follows."""
        super().to(*args, **kwargs)
        self.cfg.dtype = name_of(self.dtype)
        return self

    def encode(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... F"]:
        """Return dense latents, of the SAE's type; the caller may change them."""
        flat = x.reshape(-1, x.shape[-1]).to(self.device, self.dtype)
        acts = self._scaled(self.sae.encode_dense(flat))
        if self.observer is not None:
            self.observer(flat, acts)
        return acts.view(*x.shape[:-1], -1)

    def decode(self, acts: Float[Tensor, "... F"]) -> Float[Tensor, "... D"]:
        """Return acts W_dec + b_dec."""
        flat = acts.reshape(-1, acts.shape[-1]).to(self.device, self.dtype)
        return torch.addmm(self.b_dec, flat, self.W_dec).view(*acts.shape[:-1], -1)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Encode and decode."""
        return self.decode(self.encode(x))

    def _scaled(self, by_latent: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        return by_latent if self._scale is None else by_latent * self._scale


@torch.no_grad()
def lengths_and_unit_rows(
    W_dec: Float[Tensor, "F D"],
) -> tuple[Float[Tensor, " F"] | None, Float[Tensor, "F D"] | None]:
    """Return the lengths of rows and the rows without them; None twice where all are 1 already."""
    norms = torch.linalg.vector_norm(W_dec, dim=-1, dtype=torch.float32)
    if bool(((norms - 1).abs() <= UNIT_TOLERANCE).all()):
        return None, None
    return norms, W_dec / torch.where(norms > 0, norms, 1.0).to(W_dec.dtype)[:, None]


def name_of(dtype: torch.dtype) -> str:
    """Return `float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")
