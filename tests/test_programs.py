"""Programs of others that are asked for something."""

import pytest

from temporal_sae.programs import answer_of


def test_the_answer_is_what_a_program_prints(tmp_path):
    assert answer_of("echo", "a  b", seconds=10) == "a  b\n"
    assert answer_of("pwd", seconds=10, folder=tmp_path) == f"{tmp_path}\n"


@pytest.mark.parametrize("command", [("false",), ("no-such-program",), ("sleep", "60")])
def test_there_is_none_where_it_fails_is_missing_or_takes_too_long(command):
    assert answer_of(*command, seconds=0.5) is None
