"""The memory budget of a run, printed before anything is allocated."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Mapping
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


def check_memory(
    cfg: DictConfig, cheap: Cheap, evaluation: Evaluation, sae: SparseAutoencoder
) -> dict[str, int]:
    """Bytes of a process by purpose; printed, and refused with them where they exceed what is free.

    The source is open; everything else is still to come.

    Args:
        cfg: the config, of whose keys those are named that help.
        cheap: the components that take no memory yet.
        evaluation: of the SAE when it is trained.
        sae: with shapes only.

    Raises:
        RunError: it does not fit; the message names the keys of the largest parts.
    """
    items = planned_items(cheap, evaluation, sae)
    device = cheap.source.device
    free = free_memory(device)
    budget = {name: item.n_bytes for name, item in items.items()}
    log.info("%s", in_lines(budget, free))
    phase, coming = the_larger_phase(items)
    needed = sum(item.n_bytes for item in coming.values())
    if free is not None and needed > free.n_bytes:
        held = " and the ".join(name for name, item in items.items() if item.held)
        beside = f" beside the {held}" if held else ""
        raise RunError(
            f"the run needs {needed / MIB:,.0f} MiB of memory in {phase}{beside}, and {free} are "
            f"free on {device}; {what_helps(cfg, coming, needed - free.n_bytes)}"
        )
    return budget


def the_larger_phase(items: Mapping[str, Planned]) -> tuple[str, dict[str, Planned]]:
    """Return `training` or `evaluation`, and what it will take: what is held has been taken."""
    phases = {
        phase: {n: i for n, i in items.items() if not i.held and i.phase in ("", phase)}
        for phase in ("training", "evaluation")
    }
    return max(phases.items(), key=lambda found: sum(i.n_bytes for i in found[1].values()))


def planned_items(
    cheap: Cheap, evaluation: Evaluation, sae: SparseAutoencoder
) -> dict[str, Planned]:
    """Return the memory of a run by purpose, as its components say; first what is held already."""
    tracker, loss, source = cheap.tracker, cheap.penalty, cheap.source
    k = min(sae.tracked_latents, sae.d_sae)
    works = loss.ortho_weight and (tracker.gives_weights or not loss.needs_tracker)
    of_source = source.planned_bytes()
    weights = sum(p.nbytes for p in sae.parameters())
    # Gradients, moments, batches, buffer and penalty are gone when the evaluation begins.
    in_training = {
        **sae.planned_bytes(cheap.trainer.batch_size // world_size()),
        **{name: item for name, item in of_source.items() if not item.held},
        **(StabilityMonitor().planned_bytes(sae.d_sae, sae.d_in) if tracker.gives_weights else {}),
        **(loss.planned_bytes(sae.d_sae, sae.d_in) if works else {}),
    }
    return {
        **{name: item for name, item in of_source.items() if item.held},
        **evaluation.planned_bytes(source, sae),
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
