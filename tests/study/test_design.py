"""Designs: which runs there are, and which arm a run is of."""

from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir

from temporal_sae.commands import CONF
from temporal_sae.metrics import better_when_higher
from temporal_sae.study.design import sweep_overrides
from temporal_sae.study.designs import DESIGNS, PREDICTIONS
from temporal_sae.study.predictions import Level
from tests.study.designs import FIXED, FLOOR, MADE_UP, PAIRS, PLAIN


def test_a_run_belongs_to_the_arm_with_most_of_its_options():
    common = {"seed": "1", "loss.ortho_weight": "3", "loss.weighting": "co_activation"}
    assert MADE_UP.arm_of(common) is PAIRS
    assert MADE_UP.arm_of({**common, "loss.floor": "1"}) is FLOOR
    assert MADE_UP.arm_of({"loss.ortho_weight": "0"}) is PLAIN
    assert MADE_UP.arm_of({"loss.ortho_weight": "0", "sae": "matryoshka"}) is FIXED
    assert MADE_UP.arm_of({"seed": "1"}) is None


def test_whatever_is_fixed_changes_the_hash():
    changed = [
        replace(MADE_UP, budget=0.2),
        replace(MADE_UP, seeds=(1, 2)),
        replace(MADE_UP, arms=MADE_UP.arms[:-1]),
        replace(MADE_UP, contrasts=()),
        replace(MADE_UP, spread=(1.0,)),
        replace(MADE_UP, only_tuned=("there",)),
    ]
    assert len({MADE_UP.digest(), *(design.digest() for design in changed)}) == 7
    assert replace(MADE_UP).digest() == MADE_UP.digest()


def test_the_sweep_of_a_setting_has_the_grid_first_and_then_the_chosen_weights():
    setting = MADE_UP.settings[1]
    words = sweep_overrides(MADE_UP, setting, "tuning")
    assert words[3:] == [
        "activations.world.zipf=0.2",
        "seed=9",
        "hydra.sweeper.params={loss.ortho_weight:0}",
        "hydra.sweeper.also=[[loss.weighting=co_activation,loss.ortho_weight=1,10],"
        "[loss.weighting=co_activation,loss.floor=1,loss.ortho_weight=1,10],"
        "[sae=matryoshka,loss.ortho_weight=0]]",
    ]
    chosen = {("there", "pairs"): [0.5, 2.0], ("there", "pairs + 1"): [3.0, 6.25]}
    words = sweep_overrides(MADE_UP, setting, "final", chosen)
    assert "seed=1,2,3" in words
    assert "loss.weighting=co_activation,loss.ortho_weight=0.5,2]" in words[-1]
    assert "loss.floor=1,loss.ortho_weight=3,6.25]" in words[-1]


@pytest.mark.parametrize("design", DESIGNS.values(), ids=list(DESIGNS))
def test_designs_are_fair_and_say_what_there_is(design):
    arms = (design.plain, *design.arms)
    assert len({arm.name for arm in arms}) == len({arm.overrides for arm in arms}) == len(arms)
    assert len({len(arm.grid) for arm in design.arms if arm.grid}) == 1
    assert not set(design.tuning_seeds) & set(design.seeds)
    names = {arm.name for arm in arms}
    for contrast in design.contrasts:
        assert {contrast.arm, contrast.control} <= names
        assert contrast.arm != contrast.control
        for metric in contrast.metrics:
            assert metric in design.metrics
            assert better_when_higher(metric.partition(".")[2]) is not None
    assert design.cost in design.metrics
    for arm in arms:
        assert design.arm_of(arm.options()) is arm


@pytest.mark.parametrize("name", PREDICTIONS)
def test_predictions_are_of_contrasts_and_arms_that_there_are(name):
    design = DESIGNS[name]
    settings = {setting.name for setting in design.settings}
    for prediction in PREDICTIONS[name]:
        assert set(prediction.settings) <= settings
        if isinstance(prediction, Level):
            assert prediction.arm in {arm.name for arm in design.arms}
            assert prediction.metric in design.metrics
            continue
        sides = (prediction.arm, prediction.control)
        (contrast,) = (c for c in design.contrasts if (c.arm, c.control) == sides)
        assert set(prediction.metrics) <= set(contrast.metrics)


@pytest.mark.parametrize("design", DESIGNS.values(), ids=list(DESIGNS))
def test_every_arm_can_be_composed_in_every_setting(design):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for arm in (design.plain, *design.arms):
            fixed = arm.options()
            for setting in design.settings:
                typed = [
                    override
                    for override in (*design.overrides, *setting.overrides)
                    if not any(f"{override.split('=')[0]}.".startswith(f"{key}.") for key in fixed)
                ]
                compose("config", overrides=[*typed, "seed=0", *arm.overrides])
