"""`results.json`: one run in the sections and names of the reference results."""

from __future__ import annotations

import math
from typing import Any

from temporal_sae.errors import RunError
from temporal_sae.experiment.build import Components
from temporal_sae.training.loggers import Metrics

SPARSITY = ("k", "l1_weight", "l0_target", "l0_weight")
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
        **{name: getattr(sae, name) for name in SPARSITY if hasattr(sae, name)},
        "device": str(parts.device),
        "layer": parts.model.layer,
        "lm_name": parts.model.name,
        "submodule_name": parts.model.hook_name,
        "ortho_weight": parts.separation.ortho_weight,
    }
    final = {
        "training_steps": steps,
        "final_loss": metrics["loss"],
        "layer": parts.model.layer,
        "dict_size": sae.d_sae,
        "learning_rate": lr,
        **{key: metrics[key] for key in ("explained_variance", "l0", "dead_share")},
    }
    return {"config": config, "final_info": final}


def core_section(parts: Components, metrics: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The core evaluation, as SAEBench writes it."""
    name = f"{parts.model.name}_layer_{parts.model.layer}_sae"
    return {
        "unique_id": f"{name}_{parts.sae.trained_as}",
        "sae_set": name,
        "sae_id": parts.sae.trained_as,
        "eval_cfg": {
            "model_name": parts.model.name,
            "llm_dtype": parts.model.dtype,
            "context_size": parts.source.context_size,
            "exclude_special_tokens_from_reconstruction": True,
            **parts.evaluation.options(),
        },
        "metrics": metrics,
    }


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


def _leaves(results: dict[str, Any]) -> list[tuple[str, Any]]:
    """All (name, value) pairs that are no sections; later sections come later."""
    found = []
    for key, value in results.items():
        found += _leaves(value) if isinstance(value, dict) else [(key, value)]
    return found
