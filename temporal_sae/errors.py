"""Errors that a person can cause, each told in one line.

`InvalidOption` names the option, the value and what is allowed; the component that raises it does
not know under which config group it was built, so the command line puts the group in front.
`RunError` is any other mistake with one clear sentence. Everything else is a bug and keeps its
traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any, TypeVar

T = TypeVar("T")
LARGEST = sys.float_info.max


class RunError(Exception):
    """A mistake outside the config (a missing file, a finished folder), told in one line."""


class EvaluationFailed(Exception):
    """Some evaluations have failed while the others are done.

    Args:
        failures: the reason of each, by name.
    """

    def __init__(self, failures: dict[str, str]) -> None:
        self.failures = failures
        super().__init__("; ".join(f"eval {name}: {why}" for name, why in failures.items()))


class SweepIncomplete(Exception):
    """Some jobs of a sweep have failed while the others are done.

    Args:
        failures: the reason of each, by the job's number and what it was to compute.
        again: the command that repeats what is missing.
    """

    def __init__(self, failures: dict[str, str], again: str) -> None:
        self.failures, self.again = failures, again
        super().__init__("; ".join(f"{job}: {why}" for job, why in failures.items()))


def printable(text: str) -> str:
    """`text` with escapes for what a terminal would obey or could not show.

    Names and values from files reach messages; a control character in them must not reach the
    terminal. Letters of any script stay as they are.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def one_line(text: Any) -> str | None:
    """Return the words of `text`, printable and without its line breaks; None if there are none."""
    return printable(" ".join(str(text).split())) or None if text is not None else None


def reason_of(error: Any) -> str:
    """Return why a job has failed, in one line, from the error that it has raised."""
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class NotFinite(ValueError):
    """A tensor has a NaN or an infinity, said in one sentence."""


class InvalidOption(ValueError):
    """An option has a value that is not allowed.

    Args:
        option: name of the constructor argument, which is also the config key below its group.
        value: what was given.
        allowed: what would have been accepted, in words.
    """

    def __init__(self, option: str, value: Any, allowed: str) -> None:
        self.option, self.value, self.allowed = option, value, allowed
        super().__init__(f"{option}={value!r}: must be {allowed}")

    def within(self, group: str) -> InvalidOption:
        """Return the same error with the config group in front of the option."""
        return InvalidOption(f"{group}.{self.option}", self.value, self.allowed)


def check_int(option: str, value: Any, minimum: int) -> int:
    """Return `value` if it is a whole number from `minimum` to 2^63 - 1, else raise InvalidOption.

    A float such as 1e6, which is how YAML reads it, counts if it is whole.
    """
    whole = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or value < minimum:
        raise InvalidOption(option, value, f"a whole number of at least {minimum}")
    if value >= 2**63:
        raise InvalidOption(option, value, "a whole number below 2^63")
    return int(value)


def keep_int(options: Any, option: str, minimum: int) -> None:
    """Replace a frozen dataclass's field by the whole number that it is, as `check_int` has it."""
    object.__setattr__(options, option, check_int(option, getattr(options, option), minimum))


def check_bool(option: str, value: Any) -> bool:
    """Return `value` if it is true or false, else raise InvalidOption: `no` is a string."""
    if not isinstance(value, bool):
        raise InvalidOption(option, value, "true or false")
    return value


def check_number(
    option: str,
    value: Any,
    minimum: float = 0.0,
    maximum: float = float("inf"),
    *,
    above: bool = False,
) -> float:
    """Return `value` as a float if it lies in [minimum, maximum] (or above minimum, if `above`)."""
    is_number = isinstance(value, Real) and not isinstance(value, bool) and is_finite(value)
    too_low = is_number and (value <= minimum if above else value < minimum)
    if not is_number or too_low or not value <= maximum:
        bracket = "(" if above else "["
        end = ")" if maximum == float("inf") else "]"
        raise InvalidOption(option, value, f"a number in {bracket}{minimum:g}, {maximum:g}{end}")
    return float(value)


def is_finite(value: Any) -> bool:
    """Return whether a float can hold a number; whole numbers may be of any size."""
    return bool(abs(value) <= LARGEST)


def check_words(option: str, value: Any, *, null: bool = False) -> Any:
    """Return `value` if it is a text that is not empty, or None with `null`."""
    if (value is None and null) or (isinstance(value, str) and value):
        return value
    raise InvalidOption(option, value, "a text that is not empty" + (", or null" if null else ""))


def check_choice(option: str, value: T, choices: Collection[T]) -> T:
    """Return `value` if it is one of `choices`, else raise InvalidOption."""
    if value not in choices:
        raise InvalidOption(option, value, "one of " + ", ".join(map(str, choices)))
    return value
