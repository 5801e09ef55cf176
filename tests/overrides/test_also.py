"""`hydra.sweeper.also` as people type it."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from temporal_sae.errors import RunError
from temporal_sae.overrides.also import ALSO, readable


def read(value):
    """What Hydra makes of `also` once it is readable."""
    (word,) = readable([f"{ALSO}={value}"], multirun=True)
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize(
    ("typed", "sweeps"),
    [
        ("[[tracker=off,loss.w=0]]", [["tracker=off", "loss.w=0"]]),
        ("[[tracker=off, loss.w=0], [p=true]]", [["tracker=off", "loss.w=0"], ["p=true"]]),
        ('[[tracker=off,"seed=1,2"]]', [["tracker=off", "seed=1,2"]]),
        ("[['tracker=off','seed=1,2']]", [["tracker=off", "seed=1,2"]]),
        ("[[tracker=off,seed=1,2]]", [["tracker=off", "seed=1,2"]]),
        ("[[seed=1,2,tracker=off]]", [["seed=1,2", "tracker=off"]]),
        ("[tracker=off,loss.w=0]", [["tracker=off", "loss.w=0"]]),
        ("tracker=off,seed=1,2", [["tracker=off", "seed=1,2"]]),
        ("tracker=off", [["tracker=off"]]),
        ("[[seed=range(1,4),tracker=off]]", [["seed=range(1,4)", "tracker=off"]]),
        ("[[+a.b=[1,2],~c=x]]", [["+a.b=[1,2]", "~c=x"]]),
        ("[a=[1,2],b=[3]]", [["a=[1,2]", "b=[3]"]]),
        ("[[a='x, y=1']]", [["a='x, y=1'"]]),
        ("[[a=${b}]]", [["a=${b}"]]),
        ("[[hydra/x@y=z]]", [["hydra/x@y=z"]]),
    ],
)
def test_every_spelling_is_a_list_of_sweeps(typed, sweeps):
    assert [[o.replace(r"\${", "${") for o in each] for each in read(typed)] == sweeps


WORDS = st.lists(st.lists(st.sampled_from(["a=1,2", "b.c=x", "+d=[1,2]", "e='f,g'"]), min_size=1))


@given(WORDS.filter(bool), st.booleans())
def test_quotes_and_brackets_make_no_difference(sweeps, in_quotes):
    spelt = [",".join(f'"{o}"' if in_quotes else o for o in each) for each in sweeps]
    assert read(f"[{','.join(f'[{each}]' for each in spelt)}]") == sweeps
    if len(sweeps) == 1:
        assert read(f"[{spelt[0]}]") == read(spelt[0]) == sweeps


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("[[tracker=off", "has a bracket or a quote without its other one"),
        ("[[tracker=off]]]", "has a bracket or a quote without its other one"),
        ("[tracker=off],[a=1]", "has a bracket or a quote without its other one"),
        ("[['tracker=off]]", "has a bracket or a quote without its other one"),
        ("[[off,a=1]]", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_told_with_an_example(typed, said):
    with pytest.raises(RunError, match=f"{said}; it is written as in {ALSO}=") as told:
        read(typed)
    assert str(told.value).startswith(f"{ALSO}={typed}: ")


def test_it_stands_beside_a_sweep_and_other_words_stay():
    words = ["seed=1,2", f"+{ALSO}=a=1", f"{ALSO}=null", f"{ALSO}=[[]]", "a=[b=1]"]
    expected = [words[0], f"+{ALSO}=[['a=1']]", *words[2:]]
    assert readable(words, multirun=True) == expected
    assert readable(["sweep=full", *words], multirun=False)[1:] == expected
    with pytest.raises(RunError, match=r"a=1: stands beside a sweep, with -m or sweep=NAME$"):
        readable(words, multirun=False)
