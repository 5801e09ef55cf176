"""The factorial on the toy world: joint firing, marginal activity, time, and their controls."""

from __future__ import annotations

from temporal_sae.study.analysis import BETTER, SAME, WORSE
from temporal_sae.study.design import Arm, Contrast, Design, Setting
from temporal_sae.study.predictions import Difference, Level, Prediction

GRID = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
FLOORS = (0, 1, 5)
DRIFT = "activations.world.phase_rows=8192"  # 62 phases in a run, of eight kinds in turn
IN_ORDER, MIXED = 512, 65_536  # rows of the shuffle buffer: a batch, and a turn of the phases
WARM_UP = 51_200  # tokens: a tenth of the run, after which penalties on pairs start
WEIGHTINGS = {
    "co_activation": ("loss.weighting=co_activation",),
    "permuted": ("loss.weighting=co_activation", "loss.permuted=rates"),
    "instability": ("loss.weighting=instability",),
    "rates": ("loss.weighting=rates",),
    "excess": ("loss.weighting=excess",),
    "stable": ("loss.weighting=stable",),
    "bursty": ("loss.weighting=bursty",),
    "long_average": (
        "loss.weighting=long_average",
        "tracker.alpha_source=const",
        "tracker.alpha_floor=0.005",
    ),
}


def fed(buffer_tokens: int) -> tuple[str, ...]:
    """Return the overrides of a shuffle buffer.

    A tracker in text order reads ahead of the SAE by the buffer, so that warm-up ends as much later
    in its stream.
    """
    start = buffer_tokens + WARM_UP
    return (
        f"activations.buffer_tokens={buffer_tokens}",
        f"tracker.totals_from={start}",
        f"tracker.average_from={start}",
        f"loss.start_tokens={start}",
    )


def weighted(name: str, floor: int) -> Arm:
    """Return the arm of a weighting with a uniform part."""
    told = f"{name} + {floor}" if floor else name
    return Arm(told, (*WEIGHTINGS[name], f"loss.floor={floor}"), GRID)


PLAIN = Arm("no penalty", ("loss.ortho_weight=0",))
UNIFORM = Arm("uniform", ("loss.weighting=uniform",), GRID)
# Its weight is a sum of norms over a batch, some thirty times a share of the pairs.
C2R = Arm("c2r", ("loss=c2r",), tuple(weight / 100 for weight in GRID))
# The same with the order of the tracker's tokens undone: what is left of a signal is not of time.
UNDONE = tuple(
    Arm(f"{name}, no order", (*WEIGHTINGS[name], "loss.floor=0", "tracker.stream=permuted"), GRID)
    for name in ("stable", "bursty")
)
ORTSAE = Arm("ortsae", ("loss=ortsae",), tuple(weight / 10 for weight in GRID))
MATRYOSHKA = Arm("matryoshka", ("sae=matryoshka", "loss.ortho_weight=0"))
ARMS = (
    *(weighted(name, floor) for floor in FLOORS for name in WEIGHTINGS),
    *UNDONE,
    UNIFORM,
    C2R,
    ORTSAE,
    MATRYOSHKA,
)
PRIMARY = ("ground_truth.absorption", "ground_truth.mcc", "ground_truth.f1")
METRICS = (
    *PRIMARY,
    "ground_truth.fractional_absorption",
    "ground_truth.leakage",
    "ground_truth.hedging",
    "ground_truth.uniqueness",
    "ground_truth.joint_overlap_ap",
)
CONTRASTS = (
    Contrast("joint firing or marginal activity", "co_activation", "rates", PRIMARY),
    Contrast("the right pairs or others of equal rates", "co_activation", "permuted", PRIMARY),
    Contrast("beyond what rates predict", "excess", "co_activation", PRIMARY),
    Contrast("change of co-activation", "instability", "co_activation", PRIMARY),
    Contrast("a long memory", "long_average", "co_activation", PRIMARY),
    Contrast("stable pairs", "stable", "long_average", PRIMARY),
    Contrast("bursty pairs", "bursty", "long_average", PRIMARY),
    Contrast("stable pairs, or no order", "stable", "stable, no order", PRIMARY),
    Contrast("bursty pairs, or no order", "bursty", "bursty, no order", PRIMARY),
    Contrast("stable or bursty", "stable", "bursty", (*PRIMARY, "ground_truth.leakage")),
    Contrast("a floor", "co_activation + 1", "co_activation", PRIMARY),
    Contrast("pairs beside a floor", "co_activation + 1", "uniform", PRIMARY),
    Contrast("joint or marginal, beside a floor", "co_activation + 1", "rates + 1", PRIMARY),
    Contrast("right pairs, beside a floor", "co_activation + 1", "permuted + 1", PRIMARY),
    Contrast("pairs beside a floor, time", "instability + 1", "co_activation + 1", PRIMARY),
    Contrast("against C²R", "co_activation + 1", "c2r", PRIMARY),
    Contrast("against OrtSAE", "co_activation + 1", "ortsae", PRIMARY),
    Contrast("against Matryoshka", "co_activation + 1", "matryoshka", PRIMARY),
)
TOY = Design(
    name="toy",
    overrides=(
        "experiment=toy",
        "activations.seed=${seed}",
        "eval=ground_truth",
        "eval.n_sequences=512",
        "tracker.stream=ordered",
        "trainer.num_tokens=512_000",
        "trainer.checkpoint_every=1000",
    ),
    settings=(
        Setting("stationary", fed(MIXED)),
        Setting("drift_ordered", (DRIFT, *fed(IN_ORDER))),
        Setting("drift_shuffled", (DRIFT, *fed(MIXED))),
    ),
    plain=PLAIN,
    arms=ARMS,
    tuning_seeds=(100, 101),
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    cost="core.explained_variance",
    budget=0.01,
    metrics=("core.explained_variance", *METRICS),
    contrasts=CONTRASTS,
)
SETTINGS = tuple(setting.name for setting in TOY.settings)
ORDERED = ("drift_ordered",)
ABSORPTION, MCC, _ = PRIMARY
LEAKAGE = "ground_truth.leakage"
PREDICTIONS: tuple[Prediction, ...] = (
    Difference(
        "joint firing beats rates in absorption",
        SETTINGS,
        "co_activation",
        "rates",
        (ABSORPTION,),
        (BETTER,),
    ),
    Difference("and not in MCC", SETTINGS, "co_activation", "rates", (MCC,), (SAME, WORSE)),
    Level("stable pairs keep absorption below .05", ORDERED, "stable", ABSORPTION, (0.0, 0.05)),
    Level("bursty pairs leave more than .3", ORDERED, "bursty", ABSORPTION, (0.3, 1.0)),
    Difference(
        "stable pairs leave more leakage than bursty ones",
        ORDERED,
        "stable",
        "bursty",
        (LEAKAGE,),
        (WORSE,),
    ),
    *(
        Difference(
            f"order makes no difference to {name} pairs where nothing changes",
            ("stationary",),
            name,
            f"{name}, no order",
            PRIMARY,
            (SAME,),
        )
        for name in ("stable", "bursty")
    ),
)
