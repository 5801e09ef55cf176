"""Several processes hold what one would hold on all their tokens, whole or in shards."""

import time
from itertools import product

import pytest
import torch

from temporal_sae.tracker.processes import shard_rows
from tests.forks import start_process
from tests.tracker import processes_worker as worker
from tests.tracker.processes_worker import ALPHAS, F, Feed

pytestmark = pytest.mark.slow  # groups of two and three processes

WORLDS = (2, 3)
SECONDS_FOR_ALL = 200  # ten are enough where nothing else runs


class Group:
    """What each rank of a group read, and the scenarios on one process with all tokens."""

    def __init__(self, world, parts):
        self.world, self.parts = world, parts
        self.alone = Feed(None, world)

    def assert_reads(self, scenario, expected):
        """Every rank read that: to the bit or, for names with ~, but for rounding."""
        for rank, part in enumerate(self.parts):
            assert differences(part[scenario], expected) == [], f"rank {rank}"

    def assert_alike(self, scenario):
        """All ranks read the same, to the bit: replicas of a model must not drift apart."""
        for part in self.parts[1:]:
            assert differences(part[scenario], self.parts[0][scenario], rounding=0) == []


def differences(ours, expected, rounding=1e-6, name=""):
    """Names of what is not the same in two trees of readings."""
    if isinstance(expected, dict):
        assert ours.keys() == expected.keys()
        items = expected.items()
    elif isinstance(expected, list):
        assert len(ours) == len(expected)
        items = enumerate(expected)
    else:
        return [] if same(ours, expected, rounding if "~" in name else 0) else [name]
    return [
        found
        for key, value in items
        for found in differences(ours[key], value, rounding, f"{name}/{key}")
    ]


def same(ours, expected, rounding):
    if not isinstance(expected, torch.Tensor):
        return ours == expected
    if ours.shape != expected.shape or ours.dtype != expected.dtype:
        return False
    if rounding == 0:
        return torch.equal(ours, expected)
    largest = float(expected.abs().max())
    return torch.allclose(ours, expected, rtol=0, atol=rounding * largest)


def launch(world, folder):
    """One process for each rank; none is left when this returns, whatever happened."""
    processes = [start_process(worker.main, rank, world, folder) for rank in range(world)]
    try:
        wait_for(processes)
    finally:
        for process in processes:
            process.kill()
            process.join()
    said = "".join((folder / f"{rank}.log").read_text() for rank in range(world))
    assert [process.exitcode for process in processes] == [0] * world, said
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def wait_for(processes):
    """Until all have ended well, one has failed, or time is up."""
    deadline = time.monotonic() + SECONDS_FOR_ALL
    while time.monotonic() < deadline:
        codes = [process.exitcode for process in processes]
        if any(codes) or None not in codes:
            return
        time.sleep(0.05)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other are slow beside other work on two cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=WORLDS, ids="world{}".format)
def group(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"group_of_{request.param}")
    for storage in ("dense", "sparse"):  # compiles once what all ranks would compile at a time
        worker.unsharded(Feed(None, request.param), storage)
    return Group(request.param, launch(request.param, folder))


@pytest.mark.parametrize("storage", ["dense", "sparse", "reference", "auto"])
def test_every_rank_holds_what_one_process_would(group, storage):
    """Counts, averages, weights and penalties of gathered tokens, in batches of every shape."""
    scenario = f"unsharded {storage}"
    group.assert_reads(scenario, worker.unsharded(group.alone, "reference"))
    group.assert_reads(scenario, worker.unsharded(group.alone, storage))
    group.assert_alike(scenario)


@pytest.mark.parametrize(
    ("storage", "alpha"), [("auto", "pair"), *product(("dense", "sparse"), ALPHAS)]
)
def test_shards_together_hold_what_one_process_would(group, storage, alpha):
    """The same of trackers whose averages are spread over the ranks, with every rule for α."""
    scenario = f"sharded {storage} {alpha}"
    for single in ("reference", storage):
        group.assert_reads(scenario, worker.sharded(group.alone, single, alpha, shard=False))
    group.assert_alike(scenario)


def test_there_is_something_to_compare(group):
    """The batches close windows before each reading, and penalties have gradients."""
    read = worker.unsharded(group.alone, "dense")
    assert [at["windows_closed"] for at in read] == [0, 2, 8] if group.world == 2 else [0, 4, 13]
    assert read[-1]["tokens_seen"] % worker.W > 0
    assert (read[-1]["average"] != read[-1]["before"]).any()
    for name in worker.PENALTIES:
        assert read[-1][f"~gradient {name}"].abs().max() > 1e-4


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_ranks_without_pairs(group, storage):
    """With as few latents as ranks some keep nothing, and still read all."""
    for n in (1, group.world):
        expected = worker.few_latents(group.alone, "reference", n, shard=False)
        group.assert_reads(f"few {storage} {n}", expected)


@pytest.mark.parametrize("storage", ["dense", "sparse"])
@pytest.mark.parametrize("kept", ["shards", "wholes"])
def test_totals_are_those_that_one_process_would_have(group, storage, kept):
    expected = worker.totals(group.alone, storage, shard=False)
    assert expected[0]["squares"].max() > expected[0]["n_windows"] > 1
    group.assert_reads(f"totals {storage} {kept}", expected)


def test_shards_may_be_stored_differently(group):
    """`auto` looks at the free memory, which can differ between ranks."""
    group.assert_reads("mixed", worker.mixed_storages(group.alone, shard=False))


@pytest.mark.parametrize("n", [1, 2, 3, 7, F, 300, 5000])
def test_shards_tile_the_rows(group, n):
    """Every row belongs to one rank, and each has its share of the pairs but for a row."""
    bounds = [part["exchanges"]["rows"][n] for part in group.parts]
    assert [lo for lo, _ in bounds] == [0, *(hi for _, hi in bounds[:-1])]
    assert bounds[-1][1] == n
    for lo, hi in bounds:
        pairs = sum(n - 1 - i for i in range(lo, hi))
        assert abs(pairs - n * (n - 1) / 2 / group.world) <= n


def test_dense_shards_are_the_triangle(group):
    """No pair is kept twice: the bytes of the shards add up, and so do those of a checkpoint."""
    parts = [part["sizes dense"] for part in group.parts]
    whole = worker.sizes(group.alone, "dense", shard=False)
    assert whole["bytes"] == 300 * 299 // 2 * 4
    for what in ("bytes", "bytes_saved"):
        assert sum(part[what] for part in parts) == whole[what]
    for part in parts:
        assert abs(part["bytes"] - whole["bytes"] / group.world) <= 300 * 4
        assert part["bytes_besides"] == whole["bytes_besides"]


def test_sparse_shards_are_about_a_share_each(group):
    """No pair is kept twice: checkpoints add up. A map has some room left, more or less of it."""
    parts = [part["sizes sparse"] for part in group.parts]
    whole = worker.sizes(group.alone, "sparse", shard=False)
    assert sum(part["bytes_saved"] for part in parts) == whole["bytes_saved"]
    for part in parts:
        assert 0.7 < part["bytes"] * group.world / whole["bytes"] < 1.4


@pytest.mark.parametrize("target", ["dense", "sparse"])
@pytest.mark.parametrize(
    "source", ["dense shard", "sparse shard", "dense whole", "sparse whole", "reference whole"]
)
def test_a_state_in_mid_window_goes_on_to_the_bit(group, source, target):
    """A shard's state in a shard of the same rows, and a whole state in every shard."""
    group.assert_reads(f"resumed {source} to {target}", worker.straight_on(group.alone))


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_a_shard_is_refused_where_other_rows_are_kept(group, storage):
    """By a whole tracker of any storage, and by another rank's shard."""
    rows = [part["exchanges"]["rows"][F] for part in group.parts]
    for rank, part in enumerate(group.parts):
        said = part[f"refusals {storage}"]
        held = "state: holds rows {} to {}, must hold ".format(*rows[rank])
        for whole in ("dense", "sparse", "reference"):
            assert said[whole] == f"{held}0 to {F}"
        lo, hi = rows[(rank + 1) % group.world]
        assert said["next rank's"].startswith(f"state: holds rows {lo} to {hi}, must hold ")
        assert said["own"] == ""


def test_a_state_is_refused_by_all_ranks_or_by_none(group):
    """Rank 0 could load its own state; alone it would wait for the others, or misread them."""
    said = [part["refusals dense"]["rank 0's"] for part in group.parts]
    assert said[0] == f"state: refused by {group.world - 1} of {group.world} processes"
    assert all(words.startswith("state: holds rows 0 to") for words in said[1:])


def test_the_transcripts_tracker_gathers_too(group):
    """Its windows are made of the batches of all ranks."""
    group.assert_reads("transcript", worker.transcript(group.alone))
    assert worker.transcript(group.alone)[-1]["windows_closed"] > 2


def test_the_bound_of_pruned_shards_is_that_of_the_worst(group):
    """Shards forget at different times; every rank knows how much that can have cost."""
    exact = worker.pruning(group.alone, storage="dense")["before"]
    group.assert_alike("pruning")
    pruned = group.parts[0]["pruning"]
    missing = exact - pruned["before"]
    assert float(missing.min()) >= 0
    assert 0 < float(missing.max()) <= pruned["bound"]


def test_exchanges_of_any_shape_and_layout(group):
    """Tensors without elements, of different sizes, and with the same values laid out otherwise."""
    for part in group.parts:
        read = part["exchanges"]
        assert read["nothing"] == (0, 3)
        assert read["own"] == [[[rank] * 2] * rank for rank in range(group.world)]
        assert read["empty"] == (0,)
        given = torch.tensor(read["given"])
        assert torch.equal(torch.tensor(read["layouts"]), given * group.world)


@pytest.mark.parametrize("name", ["second_group", "third_group"])
def test_one_default_group_after_another_and_without_the_cpu(group, name):
    """A tracker on the CPU works beside a backend for GPUs only, also when that is made anew."""
    group.assert_reads(name, worker.straight_on(group.alone))


@pytest.mark.parametrize("storage", ["dense", "sparse", "auto"])
def test_one_process_is_one_shard(storage):
    """Without a process group `sharded` changes nothing."""
    assert shard_rows(F) == (0, F)
    alone = Feed(None, 2)
    for alpha in ALPHAS:
        expected = worker.sharded(alone, storage, alpha, shard=False)
        assert differences(worker.sharded(alone, storage, alpha), expected, rounding=0) == []
    assert worker.sizes(alone, storage) == worker.sizes(alone, storage, shard=False)


@pytest.mark.parametrize("storage", ["dense", "sparse"])
@pytest.mark.parametrize("sharded", [False, True])
def test_one_shard_and_a_whole_share_their_states(storage, sharded):
    """A run that was sharded on one process goes on without, and the other way round."""
    source, target = ({"storage": storage, "sharded": s} for s in (sharded, not sharded))
    alone = Feed(None, 2)
    read = worker.resumed(alone, source, target)
    assert differences(read, worker.straight_on(alone)) == []


def test_indices_are_refused_by_all_ranks_or_by_none(group):
    """A rank that waited for the tokens of one that had raised would wait for ever."""
    *others, last = (part["wrong indices"] for part in group.parts)
    assert last["said"] == f"indices: found {F}, must be from -1 (empty) to {F - 1}"
    assert all(part["said"] == "indices: were refused by another process" for part in others)
    assert all(part["tokens"] == group.world for part in (*others, last))
