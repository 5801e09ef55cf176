"""Train sparse autoencoders on language models and ask whether co-activation helps."""

from __future__ import annotations

import os
import sys
from typing import Any

# Threads that wait should sleep. By default they spin for long, and two runs on the same cores, or
# a run beside anything else, then take each other's time: 2.8 times slower for two runs on two
# cores. A few microseconds of spinning cost the others nothing and bridge the gaps between the
# products of a small step, which is a fifth faster for it. OpenMP reads both with torch's import.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# `python -m temporal_sae.eval` imports this package, for seconds, before its own first line.
if sys.argv[:1] == ["-m"]:
    from temporal_sae import signals

    signals.hold()


def __getattr__(name: str) -> Any:
    """Return `train` or `train_many` once asked for: importing them takes a second others save."""
    if name not in ("train", "train_many"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from temporal_sae import library

    return getattr(library, name)
