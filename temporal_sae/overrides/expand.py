"""From what a person types to the overrides of every job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice, product
from math import prod

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import OverrideParseException

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.overrides.also import ALSO, EXAMPLE
from temporal_sae.overrides.keys import FREE_TO_CHANGE, identity

PRESET = "sweep"
MOST_JOBS = 100_000  # each is a folder, and composed before any work begins


def expand(
    parser: OverridesParser,
    params: dict[str, str],
    also: Sequence[Sequence[str]],
    typed: Sequence[str],
) -> list[list[str]]:
    """Return the overrides of every job: a product of values, and further products beside it.

    Args:
        parser: reads Hydra's grammar of overrides.
        params: a preset's values by key; what is typed for the same key replaces them.
        also: further sweeps, each a list of overrides. What is typed replaces the values that they
            sweep over. Those they fix are what they are for: what is typed for one, or for a key
            below one (tracker.window_size below tracker=off), does not reach them.
        typed: the command line.

    Raises:
        InvalidOption: an option that does not tell jobs apart has several values, or one of `also`
            is no override.
    """
    given = typed_overrides(parser, typed)
    preset = by_key(parser.parse_overrides([f"{k}={v}" for k, v in params.items()]))
    jobs = combinations(preset | given)
    for overrides in also:
        try:
            own = by_key(parser.parse_overrides(list(overrides)))
        except OverrideParseException as error:
            raise InvalidOption(ALSO, error.override, f"overrides, as in {EXAMPLE}") from error
        fixed = [key for key, override in own.items() if not override.is_sweep_override()]
        allowed = {key: o for key, o in given.items() if not is_fixed(key, fixed)}
        jobs += combinations(own | allowed)
    return list({identity(job): job for job in reversed(jobs)}.values())[::-1]


def typed_overrides(parser: OverridesParser, typed: Sequence[str]) -> dict[str, Override]:
    """Return the overrides of a command line by key, less the preset, which is spelt out elsewhere.

    Raises:
        InvalidOption: several presets.
    """
    given = by_key(parser.parse_overrides(list(typed)))
    preset = given.pop(PRESET, None)
    if preset is not None and preset.is_sweep_override():
        raise InvalidOption(PRESET, str(preset.input_line).partition("=")[2], "one sweep")
    return given


def by_key(overrides: Iterable[Override]) -> dict[str, Override]:
    """Return the last override of each key."""
    return {str(override.get_key_element()).lstrip("+~"): override for override in overrides}


def is_fixed(key: str, fixed: Iterable[str]) -> bool:
    """Return whether `key` is one of `fixed` or lies below one."""
    return any(key == other or key.startswith(f"{other}.") for other in fixed)


def combinations(overrides: dict[str, Override]) -> list[list[str]]:
    """Return the product of the values of all keys, the last key varying fastest."""
    values = [spelt_out(override) for override in overrides.values()]
    if (n_jobs := prod(map(len, values))) > MOST_JOBS:
        raise RunError(f"the sweep has {n_jobs:,} jobs: must be at most {MOST_JOBS:,}")
    return [list(job) for job in product(*values)]


def spelt_out(override: Override) -> list[str]:
    """Return an override as one override for each of its values."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise RunError(
            f"{override.input_line}: must be values or a range; an interval needs "
            "hydra/sweeper=bayes"
        )
    if key.lstrip("+~") in FREE_TO_CHANGE:
        raise InvalidOption(
            key, str(override.input_line).partition("=")[2], "one value for all jobs"
        )
    return [f"{key}={value}" for value in values_of(override)]


def values_of(override: Override) -> list[str]:
    """Return the values that are swept over, as words.

    Raises:
        RunError: there are none, or far too many.
    """
    try:
        words = list(islice(override.sweep_string_iterator(), MOST_JOBS + 1))
    except ValueError as error:  # a range whose step is 0
        raise RunError(f"{override.input_line}: must be values or a range ({error})") from None
    if not words:
        allowed = "one or more values, and there is none"
        if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
            group = override.key_or_group
            options = (
                override.config_loader.get_group_options(group) if override.config_loader else []
            )
            found = ", ".join(options) or f"none, for {group} is no group"
            allowed = f"a pattern that fits some of its options ({found})"
        raise RunError(f"{override.input_line}: must be {allowed}")
    if len(words) > MOST_JOBS:
        raise RunError(f"{override.input_line}: must be at most {MOST_JOBS:,} values")
    return words
