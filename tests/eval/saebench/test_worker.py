"""Errors inside of sae_bench are told in one line, and without keys."""

import pytest

from temporal_sae.eval.saebench.worker import first_line


def raised(error):
    def sizes_fit(n):
        assert n > 4

    try:
        sizes_fit(3) if error is None else exec("raise error", {"error": error})
    except Exception as caught:  # noqa: BLE001
        return caught


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("first\nsecond"), "ValueError: first"),
        (KeyError("wizard"), "KeyError: 'wizard'"),
        (ValueError("wrong key sk-abc***123 given"), "ValueError: wrong key sk-… given"),
        (None, "AssertionError: assert n > 4 (in sizes_fit)"),
    ],
)
def test_errors_of_sae_bench_in_one_line(error, said):
    caught = raised(error)
    caught.args = () if error is None else caught.args  # pytest has put a message there
    assert first_line(caught) == said
    assert len(first_line(ValueError("x" * 999))) == 300
