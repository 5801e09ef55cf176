"""From what is typed to the overrides of every job."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.overrides.expand import expand


def jobs(*typed, params=None, also=()):
    found = expand(OverridesParser.create(), params or {}, also, typed)
    return [" ".join(job) for job in found]


def test_every_combination_the_last_key_fastest():
    assert jobs("a=1,2", "b=x,y", "c=0") == [
        "a=1 b=x c=0",
        "a=1 b=y c=0",
        "a=2 b=x c=0",
        "a=2 b=y c=0",
    ]
    assert jobs("a=range(1,4)") == ["a=1", "a=2", "a=3"]
    assert jobs("a=choice(1,2)", "+b='x y'") == ["a=1 +b='x y'", "a=2 +b='x y'"]
    assert jobs() == [""]


def test_what_is_typed_goes_before_a_preset_whose_name_is_spelt_out():
    params = {"a": "1,2", "b": "5,6"}
    assert jobs("sweep=p", "a=3", params=params) == ["a=3 b=5", "a=3 b=6"]
    assert jobs("sweep=p", "c=0", params={"a": "1"}) == ["a=1 c=0"]


def test_further_sweeps_follow_the_command_line_but_for_what_they_fix():
    also = [["t=off", "w=0", "seed=1,2"], ["p=true", "w=1,3"]]
    assert jobs("seed=7", "w=5", "t.size=9", params={"t.size": "8,9"}, also=also) == [
        "t.size=9 seed=7 w=5",
        "t=off w=0 seed=7",
        "p=True w=5 seed=7 t.size=9",
    ]


def test_the_same_job_comes_once():
    assert jobs("a=1,2", also=[["a=2,3"]]) == ["a=1", "a=2"]
    assert jobs(params={"a": "1,2"}, also=[["a=2,3"]]) == ["a=1", "a=2", "a=3"]


def test_what_cannot_be_swept_over():
    for key in ("device", "overwrite", "objective"):
        with pytest.raises(InvalidOption, match=f"{key}='x,y': must be one value for all jobs"):
            jobs(f"{key}=x,y")
    with pytest.raises(InvalidOption, match="sweep='x,y': must be one sweep"):
        jobs("sweep=x,y")
    with pytest.raises(RunError, match=r"a=interval\(0,1\): must be values or a range"):
        jobs("a=interval(0,1)")
