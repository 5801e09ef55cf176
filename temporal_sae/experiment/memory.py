"""The memory budget of a run, printed before anything is allocated."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from temporal_sae.distributed import world_size
from temporal_sae.errors import RunError
from temporal_sae.eval import Evaluation
from temporal_sae.machine import MIB, Free, Planned, free_memory
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.tracker.stability import StabilityMonitor

if TYPE_CHECKING:
    from temporal_sae.experiment.build import Cheap

log = logging.getLogger(__name__)

COLUMNS = 79
NO_BREAK = "\N{NO-BREAK SPACE}"
PHASES = ("training", "evaluation")


class NoRoom(Exception):
    """A run does not fit beside those that there are, and would by itself."""


class Room:
    """The memory that is free when several runs begin side by side, and their share of it.

    The source is there once, and so is a batch of an evaluation, which takes one SAE at a time.
    """

    def __init__(self) -> None:
        self.free: Free | None = None
        self.n_runs = 0
        self.beside: dict[str, Planned] = {}  # of no single run
        self._taken = dict.fromkeys(PHASES, 0)

    def take(self, items: Mapping[str, Planned], shared: Collection[str]) -> None:
        """Count a run in.

        Args:
            items: all that it takes.
            shared: those of them that are there once.
        """
        self.n_runs += 1
        own = {name: item for name, item in items.items() if name not in shared}
        for phase in PHASES:
            self._taken[phase] += n_bytes(coming(own, phase))

    def after(self, items: Mapping[str, Planned], phase: str) -> int:
        """Return the bytes that are needed in a phase with one more run."""
        return self._taken[phase] + n_bytes(coming(items, phase))


def check_memory(
    cfg: DictConfig,
    cheap: Cheap,
    evaluation: Evaluation,
    sae: SparseAutoencoder,
    room: Room | None = None,
) -> dict[str, int]:
    """Bytes of a process by purpose; printed, and refused with them where they exceed what is free.

    The source is open; everything else is still to come.

    Args:
        cfg: the config, of whose keys those are named that help.
        cheap: the components that take no memory yet.
        evaluation: of the SAE when it is trained.
        sae: with shapes only.
        room: of the runs beside this one, which is counted in.

    Raises:
        RunError: it does not fit; the message names the keys of the largest parts.
        NoRoom: it does not fit beside the other runs.
    """
    room = room or Room()
    of_source, of_evaluation = cheap.source.planned_bytes(), evaluation.planned_bytes
    shared = {**of_source, **of_evaluation(cheap.source, sae), **room.beside}
    items = planned_items(cheap, of_source, shared, sae)
    device = cheap.source.device
    free = room.free = room.free if room.n_runs else free_memory(device)
    phase = max(PHASES, key=lambda each: room.after(items, each))
    needed = room.after(items, phase)
    is_too_much = free is not None and needed > free.n_bytes
    if is_too_much and room.n_runs:
        raise NoRoom
    budget = {name: item.n_bytes for name, item in items.items()}
    log.info("%s", in_lines(budget, free))
    if free is not None and is_too_much:
        held = " and the ".join(name for name, item in items.items() if item.held)
        beside = f" beside the {held}" if held else ""
        helps = what_helps(cfg, coming(items, phase), needed - free.n_bytes)
        raise RunError(
            f"the run needs {needed / MIB:,.0f} MiB of memory in {phase}{beside}, and {free} are "
            f"free on {device}; {helps}"
        )
    room.take(items, shared)
    return budget


def coming(items: Mapping[str, Planned], phase: str) -> dict[str, Planned]:
    """Return the items that a phase will take: what is held has been taken."""
    return {n: i for n, i in items.items() if not i.held and i.phase in ("", phase)}


def n_bytes(items: Mapping[str, Planned]) -> int:
    """Return the bytes of all items."""
    return sum(item.n_bytes for item in items.values())


def planned_items(
    cheap: Cheap,
    of_source: Mapping[str, Planned],
    shared: Mapping[str, Planned],
    sae: SparseAutoencoder,
) -> dict[str, Planned]:
    """Return the memory of a run by purpose, as its components say; first what is held already."""
    tracker, loss = cheap.tracker, cheap.penalty
    k = min(sae.tracked_latents, sae.d_sae)
    works = loss.ortho_weight and (tracker.gives_weights or not loss.needs_tracker)
    weights = sum(p.nbytes for p in sae.parameters())
    # Gradients, moments, batches, buffer and penalty are gone when the evaluation begins.
    in_training = {
        **sae.planned_bytes(cheap.trainer.batch_size // world_size()),
        **cheap.trainer.planned_bytes(sae),
        **{name: item for name, item in of_source.items() if not item.held},
        **(StabilityMonitor().planned_bytes(sae.d_sae, sae.d_in) if tracker.gives_weights else {}),
        **(loss.planned_bytes(sae.d_sae, sae.d_in) if works else {}),
    }
    return {
        **{name: item for name, item in of_source.items() if item.held},
        **{name: item for name, item in shared.items() if name not in of_source},
        "SAE in evaluation": Planned(weights, ("sae.d_sae",), phase="evaluation"),
        **{name: replace(item, phase="training") for name, item in in_training.items()},
        **tracker.planned_bytes(sae.d_sae, k, cheap.device),
    }


def in_lines(budget: Mapping[str, int], free: Free | None) -> str:
    """Return the budget in lines that a narrow terminal breaks nowhere, unless at an item's end."""
    items = [f"{name} {size / MIB:,.0f}" for name, size in budget.items()]
    items.append(f"free {free or 'unknown'}")
    unbroken = " · ".join(items).replace(" ", NO_BREAK).replace(f"{NO_BREAK}·{NO_BREAK}", " · ")
    lines = textwrap.wrap(f"memory (MiB): {unbroken}", COLUMNS, subsequent_indent="  ")
    return "\n".join(lines).replace(NO_BREAK, " ")


def what_helps(cfg: DictConfig, items: Mapping[str, Planned], excess: int) -> str:
    """Return the keys of the largest items of this config, as many as save `excess` bytes."""
    advice: dict[str, list[str]] = {}
    for name, item in sorted(items.items(), key=lambda pair: -pair[1].n_bytes):
        if excess <= 0:
            break
        excess -= item.n_bytes
        keys = [k for k in item.smaller if OmegaConf.select(cfg, k.split("=")[0]) is not None]
        advice.setdefault(" or ".join(keys), []).append(f"{name} {item.n_bytes / MIB:,.0f}")
    return "lower " + ", ".join(f"{keys} ({' and '.join(of)})" for keys, of in advice.items())
