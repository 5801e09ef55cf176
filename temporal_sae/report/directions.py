"""Which metrics say something about an SAE, and on which side they are better."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

# Where a metric's own name (without its section) says what is better. Of others (l0, l2_ratio, …)
# it is not known, and a difference is only called higher or lower.
LOWER_IS_BETTER = (
    "absorption_full",
    "absorption_fraction",
    "absorption_shape_*",
    "mean_absorption_fraction_score",
    "mean_full_absorption_score",
    "mse*",
    "ce_loss_with_sae",
    "kl_div_with_sae",
    "dead_share",
    "*unintended*",
)
HIGHER_IS_BETTER = (
    "ce_loss_score",
    "kl_div_score",
    "explained_variance*",
    "cossim",
    "frac_alive",
    "*accuracy*",
    "*sparse_probing*",
    "*scr*",
    "*tpp*",
    "*selectivity",
    "unlearning_score",
    "autointerp_score",
    "disentanglement_score",
    "cause_score",
    "isolation_score",
)
# Properties of the language model or of the evaluation, the same whatever the SAE; controls; and
# January's name of `mean_full_absorption_score`.
NOT_COMPARED = (
    "llm_*",
    "*_llm_*",
    "*control*",
    "ce_loss_without_sae",
    "ce_loss_with_ablation",
    "kl_div_with_ablation",
    "l2_norm_in",
    "total_tokens_*",
    "std_dev_*",
    "absorption_letters",
    "mean_absorption_score",
)


def better_when_higher(name: str) -> bool | None:
    """Whether higher values of a metric are better; None where neither side is."""
    if matches(name, LOWER_IS_BETTER):
        return False
    return True if matches(name, HIGHER_IS_BETTER) else None


def is_compared(name: str) -> bool:
    """Whether a metric says something about the SAE that no other one says."""
    return not matches(name, NOT_COMPARED)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the shell patterns fits the name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
