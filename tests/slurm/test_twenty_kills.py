"""A sweep on a cluster in which something is killed all the time."""

import time

import pytest

from tests.kills import assert_as_undisturbed, bombard
from tests.slurm.sweep import LONGEST, Sweep

pytestmark = pytest.mark.slow
VICTIMS = [*["worker"] * 5, *["job in training"] * 7, *["launcher"] * 4, *["controller"] * 4]


@pytest.fixture
def sweep(own_cluster, options_of_six, tmp_path):
    """Six runs on both nodes of that cluster."""
    sweep = Sweep(own_cluster, tmp_path / "sweep", *options_of_six)
    sweep.start()
    yield sweep
    sweep.kill()


def test_twenty_random_kills_and_one_repeat_give_what_an_undisturbed_sweep_gives(
    own_cluster, sweep, six
):
    """Jobs, the launcher (whose command is then given again) and the controller, by chance."""

    def kill_controller(chance):
        own_cluster.kill_controller()
        time.sleep(chance.uniform(0.2, 1))
        own_cluster.start_controller()

    bombard(sweep, VICTIMS, {"controller": kill_controller})
    sweep.finish()
    sweep.start()
    assert sweep.finish() == 0, sweep.output
    assert six.process.wait(LONGEST) == 0, six.output
    assert len(sweep.jobs) == 6
    assert_as_undisturbed(sweep, six)
