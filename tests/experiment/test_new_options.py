"""A run of an earlier version goes on where later options are at their defaults."""

from temporal_sae.experiment.folder import comparable, differing_keys
from temporal_sae.experiment.new_options import with_new_options

TRACKER = "temporal_sae.tracker.CoActivationTracker"
OLD = {"seed": 7, "tracker": {"_target_": TRACKER, "window_size": 100}}


def differences(**options):
    new = {"seed": 7, "tracker": {**OLD["tracker"], **options}}
    return differing_keys(comparable(with_new_options(OLD, new)), comparable(new))


def test_a_later_option_at_its_default_is_no_difference():
    assert differences(average_from=0, permuted_tokens=65536, seed=7) == []


def test_another_value_of_a_later_option_is_one():
    assert differences(average_from=5) == ["tracker.average_from: 0 → 5"]
    assert differences(seed=8) == ["tracker.seed: 7 → 8"]
    assert differences(window_size=200) == ["tracker.window_size: 100 → 200"]


def test_an_option_that_no_class_has_is_one_whatever_its_value():
    assert differences(unheard_of=None, other=1) == ["tracker.other: None → 1"]
    assert with_new_options(OLD, OLD) == OLD


def test_nothing_is_assumed_of_another_class():
    new = {"seed": 7, "tracker": {"_target_": "temporal_sae.tracker.NoTracker", "stream": "x"}}
    assert with_new_options(OLD, new) == OLD


def test_options_inside_of_options_are_filled_in_too():
    world = {"_target_": "temporal_sae.activations.WorldOptions", "d_in": 32}
    source = {"_target_": "temporal_sae.activations.SyntheticActivations", "world": world}
    new = {**source, "world": {**world, "orthogonal_steps": 0, "depth": 1}}
    filled = with_new_options({"activations": source}, {"activations": new})
    assert filled == {"activations": new}
    assert "depth" not in world
