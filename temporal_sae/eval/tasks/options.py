"""Checks of options that several tasks have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temporal_sae.errors import InvalidOption


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
