"""A small design and made-up runs of it."""

from __future__ import annotations

import math

from temporal_sae.study.design import Arm, Contrast, Design, Setting
from temporal_sae.study.table import Row

COST, SCORE = "core.explained_variance", "ground_truth.mcc"
PLAIN = Arm("no penalty", ("loss.ortho_weight=0",))
PAIRS = Arm("pairs", ("loss.weighting=co_activation",), (1.0, 10.0))
FLOOR = Arm("pairs + 1", ("loss.weighting=co_activation", "loss.floor=1"), (1.0, 10.0))
FIXED = Arm("matryoshka", ("sae=matryoshka", "loss.ortho_weight=0"))
MADE_UP = Design(
    name="made_up",
    overrides=("experiment=toy", "eval=ground_truth", "eval.n_sequences=32"),
    settings=(Setting("here"), Setting("there", ("activations.world.zipf=0.2",))),
    plain=PLAIN,
    arms=(PAIRS, FLOOR, FIXED),
    tuning_seeds=(9,),
    seeds=(1, 2, 3),
    cost=COST,
    budget=0.1,
    metrics=(COST, SCORE),
    contrasts=(Contrast("a floor", "pairs + 1", "pairs", (SCORE,)),),
)


def run(arm: str, weight: float | None, seed: int, cost: float, score: float, **where: str) -> Row:
    """Return a run, a final one of the first setting unless told otherwise."""
    stage, setting = where.get("stage", "final"), where.get("setting", "here")
    metrics = {COST: cost, SCORE: score}
    return Row(stage, setting, arm, math.nan if weight is None else weight, seed, metrics, 12.5)
