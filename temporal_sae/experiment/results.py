"""`results.json`: one run in the sections and names of the reference results."""

from __future__ import annotations

import math
from typing import Any

from temporal_sae.errors import RunError
from temporal_sae.experiment.build import Components
from temporal_sae.tracker import NoTracker
from temporal_sae.training.loggers import Metrics

# What decides an architecture's sparsity and upkeep, by the names that the reference files give it.
RECIPE = {
    "k": "k",
    "l1_penalty": "l1_weight",
    "l0_target": "l0_target",
    "l0_weight": "l0_weight",
    "resample_steps": "resample_every",
}
# What the reference files call the same things (dictionary_learning's class names).
TRAINER_NAMES = {
    "topk": ("TrainerTopK", "AutoEncoderTopK"),
    "batch_topk": ("BatchTopKTrainer", "BatchTopKSAE"),
    "matryoshka": ("MatryoshkaBatchTopKTrainer", "MatryoshkaBatchTopKSAE"),
    "standard": ("StandardTrainer", "AutoEncoder"),
    "jumprelu": ("JumpReluTrainer", "JumpReluAutoEncoder"),
    "gated": ("GatedSAETrainer", "GatedAutoEncoder"),
}


def training_section(parts: Components, seed: int, steps: int, metrics: Metrics) -> dict[str, Any]:
    """What was trained and how it ended, as the reference files tell it."""
    sae, trainer = parts.sae, parts.trainer
    lr = trainer.learning_rate(sae)
    trainer_class, dict_class = TRAINER_NAMES[sae.trained_as]
    config = {
        "trainer_class": trainer_class,
        "dict_class": dict_class,
        "lr": lr,
        "steps": steps,
        "seed": seed,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        **{name: getattr(sae, ours) for name, ours in RECIPE.items() if hasattr(sae, ours)},
        "warmup_steps": trainer.warmup_steps,
        "device": str(parts.device),
        "layer": parts.model.layer,
        "lm_name": parts.model.name,
        "wandb_name": dict_class,
        "submodule_name": parts.model.hook_name,
        "ortho_weight": 0.0 if is_idle(parts) else parts.separation.ortho_weight,
    }
    final = {
        "training_steps": steps,
        "final_loss": metrics["loss"],
        "layer": parts.model.layer,
        "dict_size": sae.d_sae,
        "learning_rate": lr,
        "sparsity_penalty": getattr(sae, "l1_weight", None),
        **{key: metrics[key] for key in ("explained_variance", "l0", "dead_share")},
    }
    return {"config": config, "final_info": final}


def is_idle(parts: Components) -> bool:
    """Return whether the penalty has no pair to act on, whatever its weight."""
    return parts.separation.needs_tracker and isinstance(parts.tracker, NoTracker)


def cost_section(parts: Components, metrics: Metrics, seconds: float) -> dict[str, Any]:
    """Time and memory that the tracker and the penalty took."""
    tracker, penalty = metrics["seconds_tracker"], metrics["seconds_penalty"]
    return {
        "training_seconds": seconds,
        "tracker_seconds": tracker,
        "penalty_seconds": penalty,
        "method_share_of_training_time": (tracker + penalty) / max(seconds, 1e-9),
        "tracker_bytes": parts.tracker.nbytes(),
    }


def find_objective(name: str, results: dict[str, Any]) -> float:
    """The number called `name` in the results; the evaluation's goes before the training's.

    Raises:
        RunError: it is not a finite number.
    """
    value = dict(_leaves(results)).get(name)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RunError(f"the objective {name} is {value}")
    return float(value)


def summary_of(results: dict[str, Any]) -> Metrics:
    """What a run came to, as `core/ce_loss_score`: the numbers of all sections but the training's.

    Of several of one name in a section the first counts: scores come before their details.
    """
    summary: Metrics = {}
    for section, numbers in results.items():
        if not section.startswith("training"):
            for name, value in _leaves({section: numbers}):
                if isinstance(value, (int, float)) and math.isfinite(value):
                    summary.setdefault(f"{section.split()[0]}/{name}", value)
    return summary


def _leaves(results: dict[str, Any]) -> list[tuple[str, Any]]:
    """All named numbers; those of later sections come later."""
    found: list[tuple[str, Any]] = []
    for key, value in results.items():
        if isinstance(value, dict):
            found += _leaves(value)
        elif not isinstance(value, (list, tuple, str)):
            found.append((key, value))
    return found
