"""Shared by the benchmarks: latents like a language model's, clocks and memory meters."""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MIB = 2**20
SECONDS_ENOUGH = 15


def zipf_latents(tokens: int, d_sae: int, k: int, seed: int = 0) -> Tensor:
    """Distinct latents of each token, the r-th most popular with odds 1 / r: int32 [tokens, k].

    Drawn one after another, a latent that the token has already being drawn again; a token that
    runs out of draws (four times k) has empty slots.
    """
    generator = torch.Generator().manual_seed(seed)
    edges = (1 / torch.arange(1, d_sae + 1, dtype=torch.float64)).cumsum(0)
    rows = []
    for part in torch.arange(tokens).split(4096):
        draws = torch.rand(len(part), 4 * k, generator=generator, dtype=torch.float64) * edges[-1]
        latents = torch.searchsorted(edges, draws).clamp_(max=d_sae - 1)
        value, order = latents.sort(dim=1, stable=True)
        repeated = torch.zeros_like(value, dtype=torch.bool)
        repeated[:, 1:] = value[:, 1:] == value[:, :-1]
        latents[torch.zeros_like(repeated).scatter(1, order, repeated)] = -1
        first = (latents < 0).sort(dim=1, stable=True).indices[:, :k]
        rows.append(latents.gather(1, first).int())
    return torch.cat(rows)


def synchronize(device: torch.device) -> None:
    """Wait for the card, if there is one."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def median_ms(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median milliseconds of a call, after one to warm up; fewer calls when they take long."""
    times: list[float] = []
    while len(times) <= repeats and not (len(times) > 1 and sum(times) > SECONDS_ENOUGH * 1e3):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[1:])


class PeakMemory:
    """Highest memory since the start, less what was held then; in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            synchronize(device)
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        else:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # or freed memory would be used unseen
            Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is held now
            self.start = _status("VmRSS")

    def bytes(self) -> int:
        """The peak so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() - self.start
        return _status("VmHWM") - self.start


def _status(name: str) -> int:
    found = _of_process("/proc/self/status", name)
    return found or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def most_resident(pid: int) -> int:
    """Bytes that a process has had in memory at most; or has now with its children, if more.

    Pages that they share, as all do for a moment when a child is started, count once.
    """
    family = [pid]
    try:
        for parent in family:
            family += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
        most = _of_process(f"/proc/{pid}/status", "VmHWM")
        if len(family) > 1:
            most = max(most, sum(_of_process(f"/proc/{p}/smaps_rollup", "Pss:") for p in family))
        return most
    except OSError:  # one of them has ended meanwhile
        return 0


def _of_process(file: str, name: str) -> int:
    """Bytes that a line of a file in /proc tells; 0 where it has no such line."""
    lines = Path(file).read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def run_apart(script: str, job: dict[str, Any]) -> dict[str, Any]:
    """Return the last line that `script --job JSON` prints, in a process of its own."""
    command = [sys.executable, script, "--job", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"skipped": f"failed ({done.returncode})"}
    return json.loads(done.stdout.splitlines()[-1])


def device_name(device: torch.device) -> str:
    """The card, or the processor with the number of its threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{models[0] if models else 'CPU'}, {torch.get_num_threads()} threads"
