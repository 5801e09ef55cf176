"""Several processes, each on a part of every batch, train what one would on all of it."""

import signal
import socket
import time
from functools import partial

import pytest
import torch

from tests.forks import start_process
from tests.training import data_parallel_worker as worker
from tests.training.data_parallel_worker import SCENARIOS, STEPS, B

pytestmark = pytest.mark.slow  # groups of two and three processes

WORLDS = (2, 3)
SECONDS_FOR_ALL = 400  # twenty are enough where nothing else runs
TOLERANCE = 2e-5


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other are slow beside other work on two cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def begin(world, folder, work, environment=worker.by_torchrun):
    """Start a group of processes that have imported everything already."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    return [
        start_process(worker.work_in, rank, world, port, folder, work, environment)
        for rank in range(world)
    ]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait(group, seconds=SECONDS_FOR_ALL):
    """Exit codes; no process is left when this returns, whatever happened."""
    deadline = time.monotonic() + seconds
    try:
        for process in group:
            process.join(max(0, deadline - time.monotonic()))
        return [process.exitcode for process in group]
    finally:
        for process in group:
            process.kill()
            process.join()


def read(folder, rank):
    return torch.load(folder / f"{rank}.pt", weights_only=True)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for n in range(12):
        (folder / f"{n}.txt").write_text(f"def function_{n}(x):\n    return x + {n}\n" * 60)
    return folder


class Group:
    def __init__(self, world, folder, parts):
        self.world, self.folder, self.parts = world, folder, parts


@pytest.fixture(scope="module", params=WORLDS, ids="world{}".format)
def group(request, random_gemma, texts, tmp_path_factory):
    """What each of some processes has read."""
    world, folder = request.param, tmp_path_factory.mktemp(f"group_of_{request.param}")
    codes = wait(begin(world, folder, partial(worker.everything, model=random_gemma, text=texts)))
    said = "".join((folder / f"{rank}.log").read_text() for rank in range(world))
    assert codes == [0] * world, said
    return Group(world, folder, [read(folder, rank) for rank in range(world)])


def alone(name, folder):
    """The same by one process on whole batches."""
    return worker.trained(name, folder)


def differences(ours, expected, tolerance=TOLERANCE, name=""):
    """Names of what is not the same in two trees of readings."""
    if isinstance(expected, dict):
        assert ours.keys() == expected.keys()
        return [
            found
            for key, value in expected.items()
            for found in differences(ours[key], value, tolerance, f"{name}/{key}")
        ]
    ours, expected = torch.as_tensor(ours), torch.as_tensor(expected)
    if tolerance == 0 or "~" not in name:
        return [] if torch.equal(ours, expected) else [name]
    close = torch.allclose(ours, expected, rtol=tolerance, atol=tolerance)
    return [] if close else [f"{name} by {float((ours - expected).abs().max()):.2g}"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_parts_of_a_batch_train_what_the_whole_does(group, name, tmp_path):
    """The SAE but for rounding; the tracker, and which latents are dead, to the bit."""
    expected = alone(name, tmp_path)
    for part in group.parts:
        assert differences(part[name], expected) == []


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_processes_hold_the_same_to_the_bit(group, name):
    for part in group.parts[1:]:
        assert differences(part[name], group.parts[0][name], tolerance=0) == []


def test_there_is_something_to_compare(tmp_path):
    """Windows close, weights move, latents die, and some are made anew."""
    usual, dead, renewed = (alone(n, tmp_path) for n in ("topk", "dead", "resampling"))
    assert usual["windows_closed"] == STEPS * B // 100
    assert (usual["pair weights"] > 0).any()
    assert (dead["silent_for"] > 180).any()
    never = dict(SCENARIOS["resampling"], trainer={"dead_after_tokens": 10**6, "lr": 0.1})
    trainer, parts = worker.make(never, tmp_path / "never")
    trainer.fit(parts)
    assert not torch.equal(parts.sae.W_dec, renewed["~weights"]["W_dec"])


def test_the_last_of_the_largest_is_that_of_all_entries(group):
    for part in group.parts:
        assert part["thresholds"] == worker.thresholds()
    assert worker.thresholds()[3] == 0  # not that many are positive


def test_windows_of_text_are_shared_out(group, random_gemma, texts):
    """Batches, and text in order, are those of one process, also with fewer windows than it."""
    expected = worker.streamed(random_gemma, texts)
    for part in group.parts:
        assert part["streamed"].pop("cursor 1") == expected["cursor 1"]
        assert part["streamed"].pop("cursor 5") == expected["cursor 5"]
        known = {name: value for name, value in expected.items() if "cursor" not in name}
        assert differences(part["streamed"], known) == []


def test_results_and_errors_become_those_of_all(group):
    last = group.world - 1
    for part in group.parts:
        said = part["agreements"]
        assert said["result"] == "of/0"
        assert said["inside"] == (1, 3.0)
        asked = "InvalidOption: trainer.lr={}: must be another one, True"
        assert said["refused by the first"] == asked.format(0)
        assert said["refused by the last"] == asked.format(last)
        assert said["disk full"] == "OSError: [Errno 28] No space left: 'somewhere', True"
        assert said["refused by none"] == 5
        assert said["largest"] == (last, 0)
        assert said["bfloat16"] == [[1.0] * 3] * (2 * group.world)
        assert said["any"] == [True] * group.world + [False]


def test_a_number_that_is_not_finite_stops_all_by_its_cause(group):
    """Only the last process has the token; in the others the gradient is the first to show it."""
    for part in group.parts:
        assert "step 4: the batch of activations is not finite" in part["not finite"]["said"]
        assert part["not finite"]["said"].endswith(", True")


def test_only_the_first_process_writes_and_speaks(group):
    assert [part["is silent"] for part in group.parts] == [False] + [True] * (group.world - 1)
    steps = (group.folder / "topk" / "metrics.jsonl").read_text().count('"step"')
    assert steps == STEPS // 5 + 1


@pytest.mark.parametrize("name", ["resampling", "sharded", "sharded pairs"])
def test_a_signal_to_one_stops_all_and_any_number_goes_on(group, name, tmp_path):
    """The checkpoint of several processes holds the whole, whoever continues it."""
    expected = alone(name, tmp_path)
    for part in group.parts:
        again = dict(part[f"{name}, continued"])
        assert again.pop("said") == (7, signal.SIGINT)
        assert again.pop("stopped at") == ["step_000000007"]
        assert differences(again, part[name], tolerance=0) == []
    stopped = group.folder / "continued" / f"{name}, stopped"
    assert differences(worker.trained_in(name, stopped), expected) == []


def test_preemption_waits_for_a_checkpoint_and_ends_all(group):
    for rank, part in enumerate(group.parts):
        ended, went_on = part["preempted False"], part["preempted True"]
        assert ended["said"] == (5, -1)
        assert ended["called"] == went_on["called"] == (1 if rank == 0 else 0)
        assert ended["steps"] == ["step_000000005"]
        assert went_on["said"] is None
        assert went_on["steps"] == ["step_000000005", f"step_{STEPS:09d}"]


def test_two_go_on_where_one_has_stopped(tmp_path):
    """The other way round: a checkpoint of one process, shards and all."""
    name, folder = "sharded", tmp_path / "run"
    trainer, parts = worker.make(
        SCENARIOS[name], folder, at=9, happens=lambda: signal.raise_signal(signal.SIGTERM)
    )
    with pytest.raises(worker.Stopped):
        trainer.fit(parts)
    assert wait(begin(2, folder, partial(worker.trained_in, name))) == [0, 0]
    ours = read(folder, 0)
    ours.pop("is silent")
    assert differences(ours, alone(name, tmp_path)) == []


def test_the_clock_of_the_first_decides_and_its_error_is_that_of_all(tmp_path):
    assert wait(begin(2, tmp_path, worker.saved_beside)) == [0, 0]
    for rank in range(2):
        found = read(tmp_path, rank)
        assert found["steps"] == [5, 10, 15]  # what failed at 10 shows at 15
        assert found["said"] == "OSError: [Errno 28] No space left: 'somewhere', True"
        assert found["files"] == ["step_000000005"]


def test_a_killed_process_ends_the_others(tmp_path):
    began = time.monotonic()
    codes = wait(begin(2, tmp_path, worker.killed))
    assert codes == [0, -signal.SIGKILL]
    assert time.monotonic() - began < 30
    said = read(tmp_path, 0)
    assert said["error"].startswith("another process of the run has ended (")
    assert not said["told"]


def test_what_one_process_says_is_what_the_others_report(tmp_path):
    codes = wait(begin(3, tmp_path, worker.failing))
    assert codes == [0, 0, 1]
    for rank in range(2):
        said = read(tmp_path, rank)
        assert said["error"] == "another process of the run has failed: ValueError: its own error"
        assert said["told"] == (rank > 0)
    assert "ValueError: its own error" in (tmp_path / "2.log").read_text()


def test_the_tasks_of_a_slurm_step_find_each_other(tmp_path):
    assert wait(begin(3, tmp_path, worker.small_exchange, worker.by_slurm)) == [0, 0, 0]
    for rank in range(3):
        assert torch.cat(read(tmp_path, rank)["ranks"]).tolist() == [0, 1, 2]
