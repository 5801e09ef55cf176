"""`hydra/launcher=local` while its processes are killed all the time."""

from pathlib import Path

import pytest

from temporal_sae.locks import is_held
from tests.kills import assert_as_undisturbed, bombard
from tests.slurm.cluster import wait_until
from tests.slurm.sweep import QUICK, SHORT_EVALUATION, Sweep

pytestmark = pytest.mark.slow
VICTIMS = [*["worker"] * 6, *["job in training"] * 9, *["launcher"] * 5]
SIX = ("tracker.window_size=300,400,500", "seed=1,2")


class LocalSweep(Sweep):
    """The same on this machine."""

    launcher = (
        "hydra/launcher=local",
        "hydra.launcher.devices=cpu",
        "hydra.launcher.workers=2",
        "hydra.launcher.threads=1",
    )

    def __init__(self, folder, *arguments):
        super().__init__(None, folder, *arguments)

    def workers(self):
        return [pid for pid, words in processes_about(self.folder) if "work" in words]


class OneProcess(LocalSweep):
    """The same without any worker."""

    launcher = ("hydra/launcher=basic",)


def processes_about(folder):
    """(id, words of the command line) of all processes that work in a folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(str(folder) in word for word in words):
            yield int(path.parent.name), words


@pytest.fixture
def sweeps(random_gemma, tmp_path):
    """Two sweeps over the same six jobs on two streams, one of them without disturbance."""
    options = (f"model.name={random_gemma}", *QUICK, *SHORT_EVALUATION, *SIX)
    (tmp_path / "undisturbed").mkdir()
    made = [
        LocalSweep(tmp_path / "sweep", *options),
        OneProcess(tmp_path / "undisturbed" / "sweep", *options),
    ]
    yield made
    for sweep in made:
        if sweep.process is not None:
            sweep.kill()


def test_twenty_random_kills_give_what_an_undisturbed_sweep_gives(sweeps):
    """Workers, those that train, and the launcher, whose command is then given again."""
    sweep, undisturbed = sweeps
    undisturbed.start()
    assert undisturbed.finish() == 0, undisturbed.output
    sweep.start()
    assert bombard(sweep, VICTIMS, {}) > 10
    for _ in range(3):  # a job that two of its workers have not survived is given up at first
        if sweep.finish() == 0:
            break
        sweep.start()
    assert sweep.process.returncode == 0, sweep.output
    assert_as_undisturbed(sweep, undisturbed)
    wait_until(lambda: not list(processes_about(sweep.folder)), "the end of all processes")
    assert not [path for path in sweep.folder.rglob("*.lock") if is_held(path)]
