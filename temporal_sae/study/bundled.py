"""The rivals on the bundled language model, which knows letters: what is left of it on text.

Excess co-activation with a floor, which of the weightings by joint firing has the largest mean MCC
on the toy world, beside no penalty, a penalty on all pairs alike, and the rivals; and plain
co-activation with a floor, which needs no totals. Features are not known here; the tasks of
`eval=tasks` say what latents are good for.
"""

from __future__ import annotations

from temporal_sae.study.design import Arm, Contrast, Design, Setting

GRID = (1.0, 3.0, 10.0, 30.0)
PLAIN = Arm("no penalty", ("loss.ortho_weight=0",))
WARM_UP = 51_200  # tokens: a tenth of the run, after which penalties on pairs start
METHOD = Arm("excess + 1", ("loss.weighting=excess", "loss.floor=1"), GRID)
SIMPLER = Arm("co_activation + 1", ("loss.weighting=co_activation", "loss.floor=1"), GRID)
ARMS = (
    METHOD,
    SIMPLER,
    Arm("uniform", ("loss.weighting=uniform",), tuple(10 * weight for weight in GRID)),
    Arm("c2r", ("loss=c2r",), tuple(weight / 30 for weight in GRID)),
    Arm("ortsae", ("loss=ortsae",), tuple(weight / 10 for weight in GRID)),
    Arm("matryoshka", ("sae=matryoshka", "loss.ortho_weight=0")),
)
PRIMARY = (
    "tasks.absorption_full",
    "tasks.absorption_fraction",
    "tasks.sparse_probing_package_sae_top_5",
    "tasks.tpp_equal_norm_total_threshold_20",
)
METRICS = (
    "core.explained_variance",
    "core.ce_loss_score",
    *PRIMARY,
    "tasks.absorption_shape_full",
    "tasks.sparse_probing_kind_sae_top_5",
    "tasks.scr_equal_norm_metric_threshold_20",
    "tasks.downstream_equal_norm_selectivity",
)
BUNDLED = Design(
    name="bundled",
    overrides=(
        "experiment=quick",
        "eval=tasks",
        f"tracker.totals_from={WARM_UP}",
        f"loss.start_tokens={WARM_UP}",
    ),
    settings=(Setting("default_run"),),
    plain=PLAIN,
    arms=ARMS,
    tuning_seeds=(100, 101),
    seeds=(0, 1, 2, 3, 4),
    cost="core.explained_variance",
    budget=0.01,
    metrics=METRICS,
    contrasts=(
        *(
            Contrast(f"against {control}", METHOD.name, control, PRIMARY)
            for control in ("no penalty", "uniform", "c2r", "ortsae", "matryoshka")
        ),
        Contrast("beyond what rates predict", METHOD.name, SIMPLER.name, PRIMARY),
    ),
)
