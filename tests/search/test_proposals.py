"""What a search proposes: from known functions, without any run."""

import math
from itertools import combinations
from statistics import mean

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.errors import InvalidOption
from temporal_sae.search.proposals import Interval, Search, Trial, Values, dimension

WEIGHT = Interval(0.1, 30.0, log=True, whole=False)
WINDOW = Interval(200, 5000, log=True, whole=True)
KINDS = Values(("topk", "relu"), ordered=False)
SPACE = {"loss.ortho_weight": WEIGHT, "tracker.window_size": WINDOW}


def read(text):
    (override,) = OverridesParser.create().parse_overrides([text])
    return dimension(override)


def quality(words):
    """Best, 0, at a weight of 3 and a window of 1000."""
    weight, window = float(words["loss.ortho_weight"]), int(words["tracker.window_size"])
    return -(math.log(weight / 3) ** 2) - math.log(window / 1000) ** 2


def searched(search, n_trials, at_once=1, objective=quality):
    trials = []
    while len(trials) < n_trials:
        proposed = search.propose(trials, min(at_once, n_trials - len(trials)))
        trials += [Trial(words, objective(words)) for words in proposed]
    return trials


def best_value(search, *args):
    trials = searched(search, *args)
    return trials[search.best(trials)].value


@pytest.mark.parametrize("at_once", [1, 4])
def test_it_finds_the_optimum_better_than_chance(at_once):
    by_search = mean(best_value(Search(SPACE, "maximize", 6, s), 20, at_once) for s in range(8))
    by_chance = mean(best_value(Search(SPACE, "maximize", 20, s), 20, at_once) for s in range(8))
    assert by_search > by_chance / 2  # both below 0, the best there is


def test_the_other_direction_is_the_same_search_of_the_other_sign():
    up, down = Search(SPACE, "maximize", 4, 3), Search(SPACE, "minimize", 4, 3)
    trials = searched(up, 12)
    mirrored = searched(down, 12, objective=lambda words: -quality(words))
    assert [t.words for t in trials] == [t.words for t in mirrored]
    assert up.best(trials) == down.best(mirrored)
    assert trials[up.best(trials)].value == max(trial.value for trial in trials)


def test_proposals_follow_from_the_trials_and_the_seed():
    search = Search(SPACE, "maximize", 3, 5)
    trials = searched(search, 8, at_once=2)
    for done in (0, 2, 6):
        again = Search(SPACE, "maximize", 3, 5).propose(trials[:done], 2)
        assert again == [trial.words for trial in trials[done : done + 2]]
    other_seed = Search(SPACE, "maximize", 3, 6)
    assert other_seed.propose(trials[:6], 2) != [trial.words for trial in trials[6:8]]
    worse = [Trial(trial.words, -(trial.value or 0)) for trial in trials[:6]]
    assert search.propose(worse, 2) != [trial.words for trial in trials[6:8]]


def test_failed_trials_are_not_repeated_and_say_nothing_good():
    def fails_above(words):
        return None if float(words["loss.ortho_weight"]) > 10 else quality(words)

    search = Search(SPACE, "maximize", 6, 1)
    trials = searched(search, 20, objective=fails_above)
    failed = [trial for trial in trials if trial.value is None]
    assert failed
    assert search.best(trials) is not None
    assert trials[search.best(trials)].value == max(t.value for t in trials if t not in failed)
    assert search.best(failed) is None


def test_a_small_space_is_tried_out_without_repeating_anything(monkeypatch):
    space = {"sae": read("sae=topk,jumprelu"), "seed": read("seed=range(1,4)")}
    search, trials = Search(space, "maximize", 2, 0), []
    while proposed := search.propose(trials, 4):
        trials += [Trial(words, float(len(words["sae"]))) for words in proposed]
    tried = sorted((trial.words["sae"], trial.words["seed"]) for trial in trials)
    assert tried == [(sae, seed) for sae in ("jumprelu", "topk") for seed in "123"]
    monkeypatch.setattr(optuna.Study, "ask", None)  # nothing is drawn where nothing is left
    assert search.propose(trials, 4) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=interval(0,5)", Interval(0.0, 5.0, log=False, whole=False)),
        ("a=int(interval(2,9))", Interval(2, 9, log=False, whole=True)),
        ("a=tag(log, interval(0.1,30))", Interval(0.1, 30.0, log=True, whole=False)),
        ("a=tag(log, int(interval(200,5000)))", Interval(200, 5000, log=True, whole=True)),
        ("a=range(1,10,3)", Values(("1", "4", "7"), ordered=True)),
        ("a=x,y", Values(("x", "y"), ordered=False)),
        ("a=choice(topk,1.5,x)", Values(("topk", "1.5", "x"), ordered=False)),
    ],
)
def test_the_grammar(text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("a=interval(5,1)", "an interval whose low end is below its high end"),
        ("a=interval(2,2)", "an interval whose low end is below its high end"),
        ("a=interval(0,inf)", "an interval whose low end is below its high end"),
        (
            "a=tag(log, interval(0,5))",
            "an interval whose low end is above 0 and below its high end",
        ),
        ("a=tag(log, interval(-1,5))", "an interval whose low end is above 0 and below"),
        ("a=tag(log, choice(1,2))", "without tags, or tag(log, interval(low, high))"),
        ("a=tag(lin, interval(1,5))", "without tags, or tag(log, interval(low, high))"),
    ],
)
def test_what_is_no_dimension_is_told_by_its_key(text, allowed):
    with pytest.raises(InvalidOption) as told:
        read(text)
    assert str(told.value).startswith(f"a={text[2:]!r}: must be {allowed}")


@pytest.mark.parametrize(
    ("dimension", "size"),
    [(Interval(3, 5, False, True), 3), (Interval(3, 5, False, False), math.inf), (KINDS, 2)],
)
def test_the_size_of_a_dimension_is_the_number_of_its_words(dimension, size):
    assert dimension.size() == size


@pytest.mark.parametrize(
    ("low", "high", "number", "word"),
    [
        (0.1, 30.0, 1.23456, "1.235"),
        (0.0, 5.0, 1.23456, "1.235"),
        (-5.0, 5.0, 1.23456, "1.235"),
        (100.0, 101.0, 100.123456, "100.123"),
        (0.3, 1, 0.29, "0.3"),
    ],
)
def test_a_word_has_as_many_digits_as_tell_neighbours_apart(low, high, number, word):
    assert Interval(low, high, log=False, whole=False).word(number) == word


@pytest.mark.parametrize(
    ("dimension", "low", "high", "log"),
    [
        (WEIGHT, 0.1, 30.0, True),
        (WINDOW, 200, 5000, True),
        (Interval(0, 1, False, False), 0, 1, False),
        (Values(("1", "4", "7"), ordered=True), 0, 2, False),
    ],
)
def test_numbers_are_drawn_from_the_whole_dimension(dimension, low, high, log):
    drawn_from = dimension.distribution()
    assert (drawn_from.low, drawn_from.high, drawn_from.log) == (low, high, log)
    assert KINDS.distribution().choices == (0, 1)


def apart(proposals):
    """Mean distance of pairs of windows, in factors' logarithms."""
    windows = [math.log(int(words["tracker.window_size"])) for words in proposals]
    return mean(abs(a - b) for a, b in combinations(windows, 2))


def test_the_proposals_of_a_batch_lie_further_apart_than_those_that_know_nothing_of_each_other():
    trials = searched(Search(SPACE, "maximize", 6, 0), 20)
    batches = [Search(SPACE, "maximize", 6, s).propose(trials, 6) for s in range(8)]
    alone = [Search(SPACE, "maximize", 6, s).propose(trials, 1)[0] for s in range(48)]
    strangers = [alone[s::8] for s in range(8)]
    assert mean(map(apart, batches)) > 1.3 * mean(map(apart, strangers))


def test_any_seed_will_do_and_optuna_says_nothing():
    for seed in (4295, 2**63 - 1):  # the product that it becomes a part of is just above 2^32
        assert len(Search(SPACE, "maximize", 2, seed).propose([], 1)) == 1
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR


@given(st.floats(1e-6, 1e6), st.floats(1e-9, 1e3), st.floats(0, 1), st.booleans())
@settings(deadline=None)
def test_words_of_an_interval_are_short_and_lie_within(low, width, share, log):
    high = low * (1 + width)
    interval = Interval(low, high, log=log, whole=False)
    number = min(high, low + share * (high - low))
    word = interval.word(number)
    assert low <= interval.number(word) <= high
    assert interval.number(word) == pytest.approx(number, abs=0.02 * (high - low))
    assert len(word) <= 24


def test_what_lies_outside_is_not_held():
    search = Search({**SPACE, "sae": KINDS}, "maximize", 2, 0)
    words = {"loss.ortho_weight": "3", "tracker.window_size": "1000", "sae": "topk"}
    assert search.holds(words)
    for key, wrong in [
        ("loss.ortho_weight", "31"),
        ("loss.ortho_weight", ""),
        ("tracker.window_size", "300.5"),
        ("sae", "gated"),
    ]:
        assert not search.holds({**words, key: wrong})


def test_corners_hold_every_value_that_may_be_wrong():
    search = Search({**SPACE, "sae": Values(("a", "b", "c"), ordered=False)}, "maximize", 2, 0)
    corners = search.corners()
    assert {words["sae"] for words in corners} == {"a", "b", "c"}
    assert {words["loss.ortho_weight"] for words in corners} == {"0.1", "30.0"}
    assert all(search.holds(words) for words in corners)
