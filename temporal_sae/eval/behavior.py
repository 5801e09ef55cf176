"""Loss of the language model when the SAE's reconstruction replaces its activations."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from temporal_sae.activations import LanguageModel
from temporal_sae.activations.hooks import Edit
from temporal_sae.eval.sequence_sums import SequenceSums, nonzero
from temporal_sae.metrics import CORE_SECTION, Metric, declare
from temporal_sae.sae import SparseAutoencoder

NOTHING = 1e-9  # nats a token: below what any change of a distribution in float32 comes to

of_performance = partial(
    Metric, sections=(CORE_SECTION,), groups=("metrics", "model_performance_preservation")
)
of_behavior = partial(
    Metric, sections=(CORE_SECTION,), groups=("metrics", "model_behavior_preservation")
)
METRICS = declare(
    of_performance(name="ce_loss_score", better="higher", label="CE score", headline=True),
    of_behavior(name="kl_div_score", better="higher", label="KL score"),
    of_performance(name="ce_loss_with_sae", better="lower"),
    of_performance(name="ce_loss_without_sae", compared=False),
    of_performance(name="ce_loss_with_ablation", compared=False),
    of_behavior(name="kl_div_with_sae", better="lower"),
    of_behavior(name="kl_div_with_ablation", compared=False),
)


class PlainPredictions:
    """The predictions of the language model on a batch, and its loss by zeros at the hook.

    Special tokens keep their original activations in every pass.

    Args:
        model: the language model, and the place in it.
        tokens: of some sequences.
        ordinary: marks the positions that may be replaced.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokens: Int[Tensor, "sequences context"],
        ordinary: Bool[Tensor, "sequences context"],
    ) -> None:
        logits, self._behind_hook = model.plain_pass(tokens)
        self._original = next_token_log_probabilities(logits)
        del logits  # as large as anything here, and the next pass has its own
        self._replaced = ordinary.to(model.device)[..., None]
        self._targets = tokens[:, 1:].to(self._original.device)
        self.n_predicted = self._targets.numel()
        self.ce = cross_entropy(self._original, self._targets)
        self.ce_zero, self.kl_zero = self.compared(torch.zeros_like)

    def compared(
        self, edit: Edit
    ) -> tuple[Float[Tensor, " sequences"], Float[Tensor, " sequences"]]:
        """Return cross-entropy and KL divergence with the activations replaced by `edit` of them.

        Both are sums over the next-token predictions of each sequence, in nats.
        """
        logits = self._behind_hook(lambda h: torch.where(self._replaced, edit(h), h))
        edited = next_token_log_probabilities(logits)
        return cross_entropy(edited, self._targets), kl_divergence(self._original, edited)


class BehaviorSums:
    """Cross-entropy and KL divergence with an SAE, summed over the predictions of each sequence.

    Args:
        sae: its reconstruction replaces the activations.
    """

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.tokens = 0
        self._sae, self._sums = sae, SequenceSums()

    def add(self, plain: PlainPredictions) -> None:
        """Take in a batch of sequences."""
        ce, kl = plain.compared(self._reconstruct)
        self._sums.add(
            ce=plain.ce, ce_zero=plain.ce_zero, kl_zero=plain.kl_zero, ce_sae=ce, kl_sae=kl
        )
        self.tokens += plain.n_predicted

    def _reconstruct(self, x: Tensor) -> Tensor:
        sae = self._sae
        return sae.decode(sae.encode(x.to(sae.W_dec.dtype))).to(x.dtype)

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return the metrics in SAEBench's groups; a perfect SAE scores 1, one of zeros 0."""
        mean = {name: total / self.tokens for name, total in self._sums.totals().items()}
        return {
            "model_behavior_preservation": {
                "kl_div_score": kept(mean["kl_sae"], mean["kl_zero"]),
                "kl_div_with_ablation": mean["kl_zero"],
                "kl_div_with_sae": mean["kl_sae"],
            },
            "model_performance_preservation": {
                "ce_loss_score": recovered(mean["ce_zero"], mean["ce_sae"], mean["ce"]),
                "ce_loss_with_ablation": mean["ce_zero"],
                "ce_loss_with_sae": mean["ce_sae"],
                "ce_loss_without_sae": mean["ce"],
            },
        }

    def intervals(self, seed: int) -> dict[str, tuple[float, float]]:
        """95 % bootstrap interval of each score over sequences."""
        return {
            "kl_div_score": self._sums.interval(
                seed, lambda s: 1 - s["kl_sae"] / s["kl_zero"].clip(min=1e-12)
            ),
            "ce_loss_score": self._sums.interval(
                seed, lambda s: (s["ce_zero"] - s["ce_sae"]) / nonzero(s["ce_zero"] - s["ce"])
            ),
        }


def next_token_log_probabilities(
    logits: Float[Tensor, "sequences context vocab"],
) -> Float[Tensor, "sequences predicted vocab"]:
    """Log-probabilities of the tokens after the first, in float32."""
    return logits[:, :-1].float().log_softmax(-1)


def cross_entropy(
    log_p: Float[Tensor, "w p vocab"], targets: Int[Tensor, "w p"]
) -> Float[Tensor, " w"]:
    """-log p(target) of each sequence, in nats."""
    return -log_p.gather(-1, targets[..., None]).double().sum((1, 2))


def kl_divergence(
    log_p: Float[Tensor, "w p vocab"], log_q: Float[Tensor, "w p vocab"]
) -> Float[Tensor, " w"]:
    """KL(p ‖ q) of each sequence, in nats."""
    return (log_p.exp() * (log_p - log_q)).double().sum((1, 2))


def kept(kl_sae: float, kl_zero: float) -> float:
    """1 - KL_sae / KL_zero; 0 where zeros change nothing."""
    return 1 - kl_sae / kl_zero if kl_zero > NOTHING else 0.0


def recovered(ce_zero: float, ce_sae: float, ce: float) -> float:
    """(CE_zero - CE_sae) / (CE_zero - CE); 0 where zeros cost nothing."""
    return (ce_zero - ce_sae) / (ce_zero - ce) if abs(ce_zero - ce) > NOTHING else 0.0
