"""Ten arms on the twin of SynthSAEBench: of the toy world's, those whose questions it can answer.

Rows are drawn independently there, so that nothing can be of time. Left are the questions of joint
firing, of a floor beside it, and of the rivals. The second design looks at the same arms where the
SAE has fewer or more latents a token than features fire.
"""

from __future__ import annotations

from dataclasses import replace

from temporal_sae.study.design import Arm, Contrast, Design, Setting

WARM_UP = 400_000  # tokens, after which penalties on pairs start
GRID = (0.3, 1.0, 3.0, 10.0)
FLOOR = "loss.floor=1"
RATES = ("loss.weighting=rates", FLOOR)
PERMUTED = ("loss.weighting=co_activation", "loss.permuted=rates", FLOOR)
PLAIN = Arm("no penalty", ("loss.ortho_weight=0",))
ARMS = (
    Arm("co_activation", ("loss.weighting=co_activation", "loss.floor=0"), GRID),
    Arm("co_activation + 1", ("loss.weighting=co_activation", FLOOR), GRID),
    Arm("excess + 1", ("loss.weighting=excess", FLOOR), GRID),
    Arm("rates + 1", RATES, GRID),
    Arm("permuted + 1", PERMUTED, GRID),
    # As on the toy world: ten times the weight, and for C²R a hundredth, for OrtSAE a tenth of it.
    Arm("uniform", ("loss.weighting=uniform",), tuple(10 * weight for weight in GRID)),
    Arm("c2r", ("loss=c2r",), tuple(weight / 100 for weight in GRID)),
    Arm("ortsae", ("loss=ortsae",), tuple(weight / 10 for weight in GRID)),
    Arm("matryoshka", ("sae=matryoshka", "loss.ortho_weight=0")),
)
PRIMARY = ("ground_truth.latent_f1", "ground_truth.mcc", "ground_truth.absorption")
METRICS = (
    "core.explained_variance",
    *PRIMARY,
    "ground_truth.f1",
    "ground_truth.fractional_absorption",
    "ground_truth.hedging",
    "ground_truth.uniqueness",
    "ground_truth.joint_overlap_ap",
)
CONTRASTS = (
    Contrast("the anchor", "matryoshka", "no penalty", PRIMARY),
    Contrast("a penalty at all", "co_activation + 1", "no penalty", PRIMARY),
    Contrast("a floor", "co_activation + 1", "co_activation", PRIMARY),
    Contrast("pairs beside a floor", "co_activation + 1", "uniform", PRIMARY),
    Contrast("joint or marginal", "co_activation + 1", "rates + 1", PRIMARY),
    Contrast("right pairs", "co_activation + 1", "permuted + 1", PRIMARY),
    Contrast("beyond what rates predict", "excess + 1", "co_activation + 1", PRIMARY),
    Contrast("against C²R", "co_activation + 1", "c2r", PRIMARY),
    Contrast("against OrtSAE", "co_activation + 1", "ortsae", PRIMARY),
    Contrast("against Matryoshka", "co_activation + 1", "matryoshka", PRIMARY),
)
TWIN = Design(
    name="twin",
    overrides=(
        "experiment=twin",
        "tracker=co_activation",
        f"tracker.totals_from={WARM_UP}",
        f"loss.start_tokens={WARM_UP}",
        "activations.seed=${seed}",
        "eval=ground_truth",
        "trainer.num_tokens=4_000_000",
        "trainer.checkpoint_every=2000",
    ),
    settings=(Setting("true_k", ("sae.k=6",)),),
    plain=PLAIN,
    arms=ARMS,
    tuning_seeds=(100, 101),
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    cost="core.explained_variance",
    budget=0.01,
    metrics=METRICS,
    contrasts=CONTRASTS,
    spread=(1.0,),
)
TWIN_K = replace(
    TWIN,
    name="twin_k",
    settings=(Setting("half_k", ("sae.k=3",)), Setting("double_k", ("sae.k=12",))),
    only_tuned=("half_k", "double_k"),
)
