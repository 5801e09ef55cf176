"""The state of a run while it trains, and its way into a checkpoint and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from temporal_sae import distributed, schemas
from temporal_sae.errors import InvalidOption, RunError, one_line
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.tracker.processes import whole_state
from temporal_sae.training.checkpoint import Checkpoints
from temporal_sae.training.constraints import Constraint
from temporal_sae.training.dead import DeadLatents
from temporal_sae.training.health import Health
from temporal_sae.training.loggers import Metrics
from temporal_sae.training.optimizer import SAEAdam
from temporal_sae.training.parts import Parts
from temporal_sae.training.state_file import State
from temporal_sae.training.stopwatch import Clock, Stopwatch

if TYPE_CHECKING:
    from temporal_sae.training.saving import Saving

WEIGHTS_TO_KNOW = 256
BEGIN_ANEW = 'begin anew with trainer.resume=never, which is resume="never" of `train`'
LONGEST_PROBLEM = 200  # characters; torch lists every tensor


@dataclass
class TrainingState:
    """The state of a run apart from its parts."""

    optimizer: SAEAdam
    dead: DeadLatents
    health: Health
    stopwatches: dict[str, Stopwatch]
    saving: Saving
    step: int = 0
    steps_negligible: int = 0
    seconds: float = 0.0
    metrics: Metrics = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    identity: State = field(default_factory=dict)
    constraint: Constraint = field(default_factory=Constraint)


def load_newest(checkpoints: Checkpoints) -> State | None:
    """Return the newest whole checkpoint, or None; the same in all processes.

    Raises:
        RunError: some processes do not see what the first one sees.
    """
    if distributed.world_size() == 1:
        return checkpoints.load_newest()
    # Damaged ones are removed by the first, so that the others find only whole ones.
    found = distributed.on_rank_zero(checkpoints.newest_whole)
    state = checkpoints.load_newest()
    (differs,) = distributed.all_reduce_max(int((state or {}).get("step") != found))
    if differs:
        raise RunError("the run's folder must be one that all its processes see")
    return state


def snapshot(parts: Parts, run: TrainingState) -> State:
    """Everything that later steps depend on."""
    of_constraint = run.constraint.state_dict()
    return {
        "step": run.step,
        "steps_negligible": run.steps_negligible,
        "seconds": run.seconds,
        "metrics": run.metrics,
        "stopwatches": {name: watch.seconds() for name, watch in run.stopwatches.items()},
        "sae": parts.sae.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "dead": run.dead.state_dict(),
        "tracker": whole_state(parts.tracker.state_dict()),
        "batches": parts.stream.state_dict(),
        "identity": run.identity,
        "stability": parts.stability.state_dict() if parts.stability else {},
        "rng": rng_state(parts.sae.W_dec.device),
        **({"constraint": of_constraint} if of_constraint else {}),
    }


def restore(parts: Parts, run: TrainingState, state: State) -> None:
    """Put the parts and the run where `snapshot` was taken.

    Raises:
        RunError: it was taken of other parts, or by another version of this package.
    """
    problem = schemas.misfit(state, schemas.CheckpointState)
    check_identity(run.identity, state.get("identity"))
    try:
        if problem is None:
            _restore(parts, run, state)
    except InvalidOption:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        problem = one_line(error) or type(error).__name__
        raise misfitting(problem) from error
    if problem is not None:
        raise misfitting(problem)


def identity_of(sae: SparseAutoencoder) -> State:
    """Return a few of the initial weights, by which a run is known when it is continued."""
    first = {name: _first_weights(p.detach()) for name, p in sae.named_parameters()}
    return {name: weights.float().cpu().clone() for name, weights in first.items()}


def _first_weights(weights: torch.Tensor) -> torch.Tensor:
    """Return the first of them in the order of the shape; an encoder lies otherwise in memory."""
    if weights.ndim == 2:  # of which the whole would be copied
        weights = weights[: -(-WEIGHTS_TO_KNOW // weights.shape[1])]
    return weights.flatten()[:WEIGHTS_TO_KNOW]


def check_identity(own: State, found: State | None) -> None:
    """Refuse the checkpoint of an SAE that began with other weights.

    Rounding differs between processors, so the weights only have to be close. Checkpoints of
    before 0.2 do not tell.

    Raises:
        RunError: see above.
    """
    for name, weights in (found or {}).items():
        same_shape = name in own and own[name].shape == weights.shape
        if same_shape and not torch.allclose(own[name], weights, rtol=1e-2, atol=1e-4):
            raise RunError(
                "the newest checkpoint is that of another run, whose SAE began with other weights; "
                f"choose another folder, or {BEGIN_ANEW}"
            )


def misfitting(problem: str) -> RunError:
    """Return the error for a checkpoint that is whole and not of this run."""
    return RunError(
        f"the newest checkpoint does not fit this run ({problem[:LONGEST_PROBLEM]}); move "
        f"checkpoints/ away, or {BEGIN_ANEW}"
    )


def _restore(parts: Parts, run: TrainingState, state: State) -> None:
    run.step, run.seconds, run.metrics = state["step"], state["seconds"], state["metrics"]
    run.steps_negligible = state["steps_negligible"]
    for name, watch in run.stopwatches.items():
        watch.restart(state["stopwatches"][name])
    parts.sae.load_state_dict(state["sae"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.dead.load_state_dict(state["dead"])
    parts.tracker.load_state_dict(state["tracker"])
    parts.stream.load_state_dict(state["batches"])
    if parts.stability:
        parts.stability.load_state_dict(state["stability"])
    set_rng_state(state["rng"], parts.sae.W_dec.device)
    run.constraint.load_state_dict(state.get("constraint", {}), parts.sae.W_dec.device)


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Of the generators that a step on a device draws from."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_rng_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put them back; a run that was begun on another kind of device goes on with what there is."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
