"""Joining the processes of a run by torchrun's variables, or those of a SLURM step.

Slow to import, so only a run of several processes does.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.accelerators.cpu import CPUAccelerator
from lightning_fabric.accelerators.cuda import CUDAAccelerator
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from temporal_sae.distributed.collectives import control_group
from temporal_sae.errors import InvalidOption, RunError

READING_SECONDS = 5.0
LEFT_KEY = "temporal_sae: processes that have left a run that failed"
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class StepEnvironment(SLURMEnvironment):
    """The tasks of this SLURM step, however many of them there are on each node."""

    @staticmethod
    def _validate_srun_used() -> None:
        """There is a step."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Fabric insists on `--ntasks-per-node`, which nothing here depends on."""

    def world_size(self) -> int:
        return int(os.environ["SLURM_STEP_NUM_TASKS"])


def find_environment() -> TorchElasticEnvironment | StepEnvironment:
    """Return the environment that knows the other processes.

    Raises:
        RunError: some of torchrun's variables are missing.
    """
    if "RANK" not in os.environ:
        return StepEnvironment()
    if missing := [name for name in TORCHRUN if name not in os.environ]:
        names = ", ".join(missing)
        raise RunError(f"RANK is set, so {names} must be, too, as torchrun sets them")
    return TorchElasticEnvironment()


def join(on_cuda: bool) -> None:
    """Make the process group, and take this process's GPU.

    Raises:
        RunError, InvalidOption: the processes cannot work together.
    """
    environment = find_environment()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    device = own_card(environment.local_rank()) if on_cuda else torch.device("cpu")
    accelerator: Any = CUDAAccelerator() if on_cuda else CPUAccelerator()
    strategy = DDPStrategy(
        accelerator=accelerator,
        parallel_devices=[device] * (environment.local_rank() + 1),  # Fabric takes the last
        cluster_environment=environment,
        process_group_backend="nccl" if on_cuda else "gloo",
    )
    try:
        strategy.setup_environment()
    except RuntimeError as error:
        where = f"{environment.main_address}:{environment.main_port}"
        reason = str(error).splitlines()[0]
        raise RunError(f"the processes of the run do not meet at {where} ({reason})") from error
    control_group()


def own_card(local_rank: int) -> torch.device:
    """Return a process's GPU: the one that it sees, or that of its number on this machine."""
    n_cards = torch.cuda.device_count()
    if n_cards > 1 and local_rank >= n_cards:
        allowed = f"cpu, or a machine with a card for each process: this one has {n_cards}"
        raise InvalidOption("device", "cuda", allowed)
    return torch.device("cuda", local_rank if n_cards > 1 else 0)


def leave(in_order: bool) -> None:
    """End the group.

    Args:
        in_order: all are about to leave; wait for them, so that none is taken for lost. If not,
            do not wait for a GPU, and no longer for the others than they need to read why.
    """
    if in_order:
        with suppress(RuntimeError):  # then they have ended, too
            dist.barrier(group=control_group())
        dist.destroy_process_group()
        return
    store, n_processes = dist.distributed_c10d._get_default_store(), dist.get_world_size()
    holds_store = dist.get_rank() == 0
    if "nccl" in dist.get_backend():
        dist.distributed_c10d._abort_process_group()
    else:
        dist.destroy_process_group()
    with suppress(RuntimeError):  # rank 0 has ended
        store.add(LEFT_KEY, 1)
        until = time.monotonic() + READING_SECONDS
        # The reason that another process has left ends with this one.
        while holds_store and store.add(LEFT_KEY, 0) < n_processes and time.monotonic() < until:
            time.sleep(0.02)
