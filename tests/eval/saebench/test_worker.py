"""Errors inside of sae_bench are told in one line, and without keys."""

import pytest

from temporal_sae.eval.saebench.worker import first_line


def filter_dataset(error):
    if error is not None:
        raise error
    n = 3
    assert n > 4


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("first\nsecond"), "ValueError: first"),
        (KeyError("wizard"), "KeyError: 'wizard'"),
        (ValueError("wrong key sk-abc***123 given"), "ValueError: wrong key sk-… given"),
        (None, "AssertionError: assert n > 4"),
    ],
)
def test_errors_of_sae_bench_in_one_line(error, said):
    with pytest.raises(Exception) as caught:
        filter_dataset(error)
    if error is None:
        caught.value.args = ()  # pytest has put a message there
    assert first_line(caught.value) == f"{said} (in filter_dataset)"


def test_errors_are_not_long():
    assert len(first_line(ValueError("x" * 999))) == 300
