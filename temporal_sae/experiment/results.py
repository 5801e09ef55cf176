"""`results.json`: one run in the sections and names of the reference results."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from temporal_sae.activations import ActivationSource
from temporal_sae.errors import InvalidOption, check_choice
from temporal_sae.eval import Evaluation
from temporal_sae.metrics import TRAINING_METRICS, TRAINING_SECTION
from temporal_sae.training.loggers import Metrics

if TYPE_CHECKING:
    from temporal_sae.experiment.build import Components


def training_title(source: ActivationSource) -> str:
    """Return the name of the section on the training."""
    return TRAINING_SECTION + ("" if source.layer is None else f" for layer {source.layer}")


def training_section(parts: Components, seed: int, steps: int, metrics: Metrics) -> dict[str, Any]:
    """Return config and final numbers of the training, as the reference files have them."""
    sae, trainer, source = parts.sae, parts.trainer, parts.source
    about = source.metadata()
    lr = trainer.learning_rate(sae)
    trainer_class, dict_class = sae.reference_names
    config = {
        "trainer_class": trainer_class,
        "dict_class": dict_class,
        "lr": lr,
        "steps": steps,
        "seed": seed,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        **{name: getattr(sae, ours) for name, ours in sae.reference_options.items()},
        "warmup_steps": trainer.warmup_steps,
        "device": str(parts.device),
        "layer": source.layer,
        "lm_name": about["model_name"],
        "wandb_name": dict_class,
        "submodule_name": about["hook_name"],
        "activations": source.name,
        "ortho_weight": 0.0 if is_idle(parts) else parts.penalty.ortho_weight,
    }
    final = {
        "training_steps": steps,
        "final_loss": metrics["loss"],
        "layer": source.layer,
        "dict_size": sae.d_sae,
        "learning_rate": lr,
        "sparsity_penalty": getattr(sae, "l1_weight", None),
        **{name: metrics[name] for name in TRAINING_METRICS if name != "final_loss"},
    }
    return {"config": config, "final_info": final}


def is_idle(parts: Components) -> bool:
    """Return whether the penalty has no pair to act on, whatever its weight."""
    return parts.penalty.needs_tracker and not parts.tracker.gives_weights


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


def check_objective(name: Any, evaluation: Evaluation) -> None:
    """Refuse an objective that the run will not measure, or of which there would be two.

    Raises:
        InvalidOption: see above.
    """
    names = [metric.name for metric in evaluation.metrics]
    check_choice("objective", name, (*dict.fromkeys((*names, *TRAINING_METRICS)),))
    if names.count(name) > 1:
        raise InvalidOption("objective", name, f"the name of one metric; {evaluation.name} has two")


def summary_of(results: dict[str, Any]) -> Metrics:
    """Return the numbers of all sections but the training's, under names like `core/ce_loss_score`.

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
    """Return all named numbers; those of later sections come later."""
    found: list[tuple[str, Any]] = []
    for key, value in results.items():
        if isinstance(value, dict):
            found += _leaves(value)
        elif not isinstance(value, (list, tuple, str)):
            found.append((key, value))
    return found
