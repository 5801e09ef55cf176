"""The effect of directions in the residual stream on the logits, past all later layers.

A direction d changes the logits by W_U γ(d − mean d) for each unit along it, if the final norm
divides by what it divides by without it: γ is the gain of that norm, and the mean goes where the
norm is a LayerNorm. (nostalgebraist 2020, "logit lens", with the division left out.) The mean over
the vocabulary is subtracted, since softmax does not see it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from temporal_sae.activations.blocks import find_layers
from temporal_sae.activations.language_model import LanguageModel


class Unembedding(NamedTuple):
    """Final norm and unembedding of a language model, float32.

    Attributes:
        weight: W_U, one row a token.
        gain: γ of the final norm, which is ones where none is found.
        is_centred: the final norm subtracts the mean.
        convention: a sentence on the norm.
    """

    weight: Float[Tensor, "vocab d_model"]
    gain: Float[Tensor, " d_model"]
    is_centred: bool
    convention: str

    @classmethod
    def of(cls, model: LanguageModel) -> Unembedding | None:
        """Return that of a model; None if it has none, or if its hook is not that wide."""
        head = None if model.why_no_loss else model.model.get_output_embeddings()
        if head is None or head.weight.ndim != 2 or head.weight.shape[1] != model.d_in:
            return None
        weight = head.weight.detach().to(model.device).float()
        norm = _final_norm(model)
        if norm is None:
            gain = torch.ones(model.d_in, device=model.device)
            return cls(weight, gain, False, "the model has no final norm that was found")
        gain, is_centred = _gain(norm, model)
        kind = type(norm).__name__
        mean = ", after its mean is subtracted" if is_centred else ""
        said = f"decoder row times the gain of the final norm ({kind}){mean}, times the unembedding"
        return cls(
            weight, gain, is_centred, f"{said}; the norm's division and later layers left out"
        )

    def effects(self, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """Return what each direction adds to the logits, for each unit along it."""
        rows = directions.to(self.weight.device).float()
        if self.is_centred:
            rows = rows - rows.mean(1, keepdim=True)
        logits = (rows * self.gain) @ self.weight.T
        return logits - logits.mean(1, keepdim=True)


def _final_norm(model: LanguageModel) -> nn.Module | None:
    """Return the last norm beside the layers."""
    path, _ = find_layers(model.model, model.n_layers)
    beside = model.model.get_submodule(path.rpartition(".")[0]).children()
    norms = [module for module in beside if "norm" in type(module).__name__.lower()]
    return norms[-1] if norms else None


@torch.no_grad()
def _gain(norm: nn.Module, model: LanguageModel) -> tuple[Tensor, bool]:
    """Return the gain of a norm, and True if it subtracts the mean, from what it does.

    Every kind stores its gain in its own way; some add 1 to it.
    """
    parameter = next(norm.parameters(), model.model.get_output_embeddings().weight)
    signs = torch.ones(model.d_in, device=model.device)
    signs[1::2] = -1

    def outcome(row: Tensor) -> Tensor:
        found: Tensor = norm(row.to(parameter.dtype)[None, None])[0, 0].float()
        return found

    bias = outcome(torch.zeros_like(signs))
    flat = outcome(torch.ones_like(signs)) - bias
    found = outcome(signs) - bias
    is_centred = bool(flat.abs().max() < 0.1 * found.abs().max())
    if is_centred:
        signs = (signs - signs.mean()) / signs.std(correction=0)
    return found / signs, is_centred
