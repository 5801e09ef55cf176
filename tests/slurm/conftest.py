"""A cluster for the tests of this folder, and sweeps on it that run while others are looked at.

Where it cannot be had the tests skip with the reason. TEMPORAL_SAE_REQUIRE_SLURM=1 makes that a
failure, for a machine that is meant to have it.
"""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, why_impossible
from tests.slurm.sweep import NODE, QUICK, SHORT_EVALUATION, Sweep


def skip(reason):
    if os.environ.get("TEMPORAL_SAE_REQUIRE_SLURM"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def running_cluster():
    """Starts a cluster, and at the end sees to it that nothing of it is left."""
    if reason := why_impossible():
        skip(f"a SLURM cluster {reason}")
    # Not below pytest's own folder, which others than root cannot enter: munged refuses it.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = Cluster(folder)
    try:
        try:
            cluster.start()
        except PermissionError as error:
            skip(f"a SLURM cluster needs what this machine forbids: {error}")
        yield cluster
    finally:
        left = cluster.stop()
        shutil.rmtree(folder)
        assert left == []


@pytest.fixture(scope="session")
def cluster():
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def own_cluster():
    """One whose controller may die without harm to the sweeps of other tests."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def options(random_gemma):
    """A run of a few seconds on an untrained model."""
    return (f"model.name={random_gemma}", *QUICK)


@pytest.fixture(scope="session")
def begin(cluster, tmp_path_factory):
    """Starts sweeps in the background, each once and in a folder of its own."""
    sweeps = []

    def start(name, *arguments):
        sweeps.append(Sweep(cluster, tmp_path_factory.mktemp(name) / "sweep", *arguments))
        sweeps[-1].start()
        return sweeps[-1]

    yield start
    for sweep in sweeps:
        sweep.kill()


@pytest.fixture(scope="session")
def options_of_six(options):
    """Six runs with their evaluation."""
    some_at_a_time = "hydra.launcher.array_parallelism=3"
    values = ("tracker.window_size=300,500", "seed=1,2,3")
    return (*options, *SHORT_EVALUATION, *values, some_at_a_time)


@pytest.fixture(scope="session")
def six(begin, options_of_six):
    """The six runs, begun on one node."""
    return begin("six", *options_of_six, f"{NODE}=alpha")
