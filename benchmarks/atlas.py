"""Measure the atlas: `python benchmarks/atlas.py [--tokens 10_000_000] [--output FILE]`.

Exact counts, φ and npmi of all pairs of 65536 latents, 64 of which fire in a token by Zipf's law.
The firings are written first, which a pass over a text does otherwise; memory is what the process
holds by itself, without the pages of that file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import temporal_sae  # noqa: F401 - before torch: its threads then sleep here as in a command

# isort: split
import numpy as np
import torch
from common import device_name, zipf_latents

from temporal_sae.activations import Rows
from temporal_sae.atlas import statistics
from temporal_sae.atlas.counting import firing_counts, pair_counts, postings_of, ranges
from temporal_sae.atlas.firings import Firings, FiringsWriter
from temporal_sae.atlas.statistics import Counts
from temporal_sae.latents import Latents

BLOCK = 65536


class OwnMemory(threading.Thread):
    """The most memory that the process held by itself, looked at ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._is_over = 0, threading.Event()

    def run(self) -> None:
        while not self._is_over.wait(0.1):
            status = Path("/proc/self/status").read_text().splitlines()
            found = next(line for line in status if line.startswith("RssAnon"))
            self.peak = max(self.peak, int(found.split()[1]) * 1024)

    def stop(self) -> int:
        """Return the peak in bytes."""
        self._is_over.set()
        self.join()
        return self.peak


def write_firings(folder: Path, n_tokens: int, n_latents: int, k: int) -> None:
    """Write the firings of a made-up text."""
    writer = FiringsWriter(folder, n_latents, {})
    for n, first in enumerate(range(0, n_tokens, BLOCK)):
        indices = zipf_latents(min(BLOCK, n_tokens - first), n_latents, k, seed=n)
        values = (indices >= 0).float()
        writer.add(Rows(torch.empty(len(indices), 0)), Latents(values, indices))
    writer.note({})


def all_pairs(n_tokens: int, n_latents: int, k: int) -> dict[str, Any]:
    """Count all pairs, and compute φ and npmi of each."""
    with tempfile.TemporaryDirectory() as name:
        write_firings(Path(name), n_tokens, n_latents, k)
        memory = OwnMemory()
        memory.start()
        began = time.monotonic()
        firings = Firings(Path(name), n_latents, window_size=1000)
        counts, n_pairs, together, phis = firing_counts(firings), 0, 0, 0.0
        for lo, hi in ranges(counts):
            postings = postings_of(firings, counts, lo, hi)
            for pairs in pair_counts(firings, postings):
                c = Counts.of(pairs.n, counts[pairs.i], counts[pairs.j], firings.n_tokens)
                phis += float(np.nansum(statistics.phi(c)) + np.nansum(statistics.npmi(c)))
                n_pairs += len(pairs.n)
                together += int(pairs.n.sum())
        seconds = time.monotonic() - began
        return {
            "tokens": firings.n_tokens,
            "latents": n_latents,
            "k": k,
            "distinct_pairs": n_pairs,
            "pairs_of_all_tokens": together,
            "seconds": seconds,
            "peak_bytes_without_the_file": memory.stop(),
        }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--latents", type=int, default=65536)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    arguments = parser.parse_args()
    found = {
        "device": device_name(torch.device("cpu")),
        "pairs": all_pairs(arguments.tokens, arguments.latents, arguments.k),
    }
    print(json.dumps(found, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
