"""The factorial on the toy world: joint firing, marginal activity, time, and their controls."""

from __future__ import annotations

from temporal_sae.study.design import Arm, Contrast, Design, Setting

GRID = (1.0, 3.0, 10.0, 30.0, 100.0)
FLOORS = (0, 1, 5)
WARM_UP = 51_200  # tokens: a tenth of the run, after which every arm's penalty starts
WEIGHTINGS = {
    "co_activation": ("loss.weighting=co_activation", "loss.permuted=false"),
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


def weighted(name: str, floor: int) -> Arm:
    """Return the arm of a weighting with a uniform part."""
    told = f"{name} + {floor}" if floor else name
    return Arm(told, (*WEIGHTINGS[name], f"loss.floor={floor}"), GRID)


PLAIN = Arm("no penalty", ("loss.ortho_weight=0",))
UNIFORM = Arm("uniform", ("loss.weighting=uniform",), GRID)
C2R = Arm("c2r", ("loss=c2r",), GRID)
ARMS = (*(weighted(name, floor) for floor in FLOORS for name in WEIGHTINGS), UNIFORM, C2R)
METRICS = ("ground_truth.absorption", "ground_truth.mcc", "ground_truth.f1")
CONTRASTS = (
    Contrast("joint firing or marginal activity", "co_activation", "rates", METRICS),
    Contrast("the right pairs or others of equal rates", "co_activation", "permuted", METRICS),
    Contrast("beyond what rates predict", "excess", "co_activation", METRICS),
    Contrast("change of co-activation", "instability", "co_activation", METRICS),
    Contrast("a long memory", "long_average", "co_activation", METRICS),
    Contrast("stable pairs", "stable", "long_average", METRICS),
    Contrast("bursty pairs", "bursty", "long_average", METRICS),
    Contrast("a floor", "co_activation + 1", "co_activation", METRICS),
    Contrast("pairs beside a floor", "co_activation + 1", "uniform", METRICS),
    Contrast("pairs beside a floor, time", "instability + 1", "co_activation + 1", METRICS),
    Contrast("against C²R", "co_activation + 1", "c2r", METRICS),
)
TOY = Design(
    name="toy",
    overrides=(
        "experiment=toy",
        "eval=ground_truth",
        "tracker.stream=ordered",
        f"tracker.totals_from={WARM_UP}",
        f"loss.start_tokens={WARM_UP}",
        "trainer.num_tokens=512_000",
        "trainer.checkpoint_every=1000",
    ),
    settings=(
        Setting("stationary"),
        Setting("drift_ordered"),
        Setting("drift_shuffled"),
    ),
    plain=PLAIN,
    arms=ARMS,
    tuning_seeds=(100, 101),
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    cost="ground_truth.explained_variance",
    budget=0.01,
    metrics=("ground_truth.explained_variance", *METRICS),
    contrasts=CONTRASTS,
)
