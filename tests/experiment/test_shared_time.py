"""The wall-clock time of a run among several."""

import time
from types import SimpleNamespace

import pytest

from temporal_sae.experiment.shared_time import SharedTime


def test_own_seconds_are_ones_own_and_the_rest_is_shared(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    runs = [SimpleNamespace(wall_seconds=0.0) for _ in range(2)]
    shared = SharedTime()
    now[0] += 4
    shared.divide(runs)
    now[0] += 10
    shared.divide(runs, [1.0, 6.0])
    now[0] += 5
    shared.divide(runs[1:])
    shared.divide([])
    assert [run.wall_seconds for run in runs] == pytest.approx([2 + 1 + 1.5, 2 + 6 + 1.5 + 5])
