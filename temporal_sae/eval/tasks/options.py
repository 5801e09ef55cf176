"""Options that several tasks have, and their checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from temporal_sae.errors import InvalidOption, check_int


@dataclass(frozen=True)
class AblationOptions:
    """What SCR and TPP are told.

    Attributes:
        n_values: numbers of latents that are ablated.
        train_rows: training snippets of each package and kind.
        test_rows: test snippets of each package and kind.
        n_resamples: resamples of the test rows behind an interval.
        seed: which texts stand for other classes, initial probes and the order of their rows;
            resampling.

    Raises:
        InvalidOption: an option is out of range.
    """

    n_values: Sequence[int] = field(default=(2, 5, 10, 20, 50, 100, 500))
    train_rows: int = 100
    test_rows: int = 50
    n_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts("n_values", self.n_values)
        check_int("train_rows", self.train_rows, 2)
        check_int("test_rows", self.test_rows, 1)
        check_int("n_resamples", self.n_resamples, 1)
        check_int("seed", self.seed, 0)


def check_counts(option: str, values: Any, d_sae: int | None = None) -> None:
    """Refuse what is no list of different whole numbers from 1 to the number of latents.

    Raises:
        InvalidOption: it is not.
    """
    is_list = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    whole = is_list and all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    if not whole or min(values) < 1 or len(set(values)) < len(values):
        raise InvalidOption(option, values, "a list of different whole numbers of at least 1")
    if d_sae is not None and max(values) > d_sae:
        raise InvalidOption(
            option, values, f"at most {d_sae} each, the number of latents (sae.d_sae)"
        )
