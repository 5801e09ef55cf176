"""Options that several tasks have, and their checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from temporal_sae.errors import InvalidOption, check_int, check_number, keep_int

EQUAL_NORM = 0.2  # what ablating some twenty latents of the bundled model's SAEs removes


@dataclass(frozen=True)
class AblationOptions:
    """Options that SCR and TPP share.

    Attributes:
        n_values: numbers of latents that are ablated.
        train_rows: training snippets of each package and kind.
        test_rows: test snippets of each package and kind.
        equal_norm: share of the activations' deviation that is removed where it is made equal.
        n_resamples: resamples of the test rows behind an interval.
        seed: which texts stand for other classes, initial probes and the order of their rows;
            resampling.

    Raises:
        InvalidOption: an option is out of range.
    """

    n_values: Sequence[int] = field(default=(2, 5, 10, 20, 50, 100, 500))
    train_rows: int = 100
    test_rows: int = 50
    equal_norm: float = EQUAL_NORM
    n_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_values", check_counts("n_values", self.n_values))
        keep_int(self, "train_rows", 2)
        keep_int(self, "test_rows", 1)
        check_number("equal_norm", self.equal_norm, above=True)
        keep_int(self, "n_resamples", 1)
        keep_int(self, "seed", 0)


def check_counts(option: str, values: Any, d_sae: int | None = None) -> list[int]:
    """Return a list of different whole numbers from 1 to the number of latents.

    Raises:
        InvalidOption: it is none.
    """
    is_list = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    try:
        counts = [check_int(option, value, 1) for value in values] if is_list else []
    except InvalidOption:
        counts = []
    if not counts or len(set(counts)) < len(counts):
        raise InvalidOption(option, values, "a list of different whole numbers of at least 1")
    if d_sae is not None and max(counts) > d_sae:
        raise InvalidOption(
            option, values, f"at most {d_sae} each, the number of latents (sae.d_sae)"
        )
    return counts
