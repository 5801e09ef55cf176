"""Readers of several places share the passes of the model, and each reads what it would alone."""

import gc
import random
import weakref

import pytest
import torch

from temporal_sae.activations import Harvest
from temporal_sae.activations.rows import Rows
from temporal_sae.activations.shared import SharedPasses
from temporal_sae.data import TextFiles
from temporal_sae.errors import InvalidOption, RunError

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.attn.hook_z", "blocks.2.hook_resid_mid")
CPU = torch.device("cpu")


@pytest.fixture
def source_at(small_model, text_folder):
    """Makes a source of the same text at a place of the same model."""

    def make(hook_name=HOOKS[0], **options):
        options = {"context_size": 16, "lm_batch_size": 4, "buffer_tokens": 200, **options}
        text = TextFiles(str(text_folder))
        source = Harvest(model=small_model.at(hook_name), text=text, **options)
        source.open()
        return source

    return make


@pytest.fixture
def passes(small_model):
    """A list that grows with each pass of the model."""
    seen = []
    first = small_model.model.model.layers[0]
    handle = first.register_forward_pre_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


def same_rows(left, right):
    return torch.equal(left.x, right.x) and torch.equal(left.places, right.places)


def same_states(left, right):
    plain = {k: v for k, v in left.items() if k != "waiting"}
    others = {k: v for k, v in right.items() if k != "waiting"}
    return plain == others and torch.equal(left["waiting"], right["waiting"])


@pytest.mark.parametrize("exclude", [(), ("bos", "separators")])
def test_each_reads_what_it_reads_alone_in_whatever_order(exclude, source_at):
    own = [source_at(hook, exclude=exclude).reader(seed=3) for hook in HOOKS]
    shared = source_at(exclude=exclude).readers(3, HOOKS)
    turns = [n for n in range(3) for _ in range(12)]
    random.Random(0).shuffle(turns)
    for n in turns:
        assert same_states(shared[n].state_dict(), own[n].state_dict())
        assert same_rows(shared[n].read(), own[n].read())


def test_readers_that_are_together_cost_one_pass(source_at, passes):
    readers = source_at().readers(0, HOOKS)
    passes.clear()  # in which the places were looked at
    for _ in range(5):
        for reader in readers:
            reader.read()
    assert len(passes) == 5
    for _ in range(3):  # one that fills its buffer before the others begin
        readers[1].read()
    for _ in range(3):
        readers[0].read(), readers[2].read()
    assert len(passes) == 8


def test_one_that_is_set_elsewhere_reads_what_follows_there(source_at):
    source = source_at()
    states, own = [], source_at(HOOKS[2]).reader(0)
    for _ in range(9):
        states.append(own.state_dict())
        own.read()
    readers = source.readers(0, HOOKS)
    for number in (7, 2):  # ahead of the others, then behind
        readers[2].load_state_dict(states[number])
        own.load_state_dict(states[number])
        alone = source_at().reader(0)
        readers[0].load_state_dict(alone.state_dict())
        for _ in range(6):
            assert same_states(readers[2].state_dict(), own.state_dict())
            assert same_rows(readers[2].read(), own.read())
            assert same_rows(readers[0].read(), alone.read())


def test_a_state_of_an_earlier_version_has_no_places(source_at):
    own = source_at(HOOKS[1]).reader(0)
    own.read()
    state = own.state_dict()
    before = {k: v for k, v in state.items() if k not in ("documents", "tokens", "source")}
    before["waiting"] = state["waiting"][:, 0].long()
    first, second, _ = source_at().readers(0, HOOKS)
    first.read(), first.read()
    for reader in (own, second):
        reader.load_state_dict(before)
    found = second.read()
    assert same_rows(found, own.read()) and (found.places[:, 1] == -1).any()


def test_names_are_those_of_the_model(source_at):
    source = source_at()
    by_path, by_name = source.readers(0, ["model.layers.1", "blocks.1.hook_resid_post"])
    assert same_rows(by_path.read(), by_name.read())
    with pytest.raises(InvalidOption, match="from 0 to 2"):
        source.readers(0, ["blocks.7.hook_resid_post"])


@pytest.mark.parametrize("prefetch", [False, True])
def test_streams_that_share_give_the_batches_of_streams_of_their_own(prefetch, source_at, passes):
    sources = [source_at(hook, prefetch=prefetch) for hook in HOOKS]
    readers = sources[0].readers(5, HOOKS)
    shared = [s.stream(32, 5, True, r) for s, r in zip(sources, readers, strict=True)]
    own = [source_at(hook, prefetch=False).stream(32, 5, ordered=True) for hook in HOOKS]
    for _ in range(20):
        for one, other in zip(shared, own, strict=True):
            mine, theirs = next(one), next(other)
            assert same_rows(mine.rows, theirs.rows)
            assert len(mine.ordered) == len(theirs.ordered)
            assert all(map(same_rows, mine.ordered, theirs.ordered))
    for one in shared:
        one.release()


def test_streams_that_share_cost_the_passes_of_one(source_at, passes):
    source = source_at()
    own = source.stream(32, 5)
    shared = [
        source_at(h).stream(32, 5, reader=r)
        for h, r in zip(HOOKS, source.readers(5, HOOKS), strict=True)
    ]
    counts = []
    for streams in ([own], shared):
        passes.clear()
        for _ in range(8):
            for stream in streams:
                next(stream)
        counts.append(len(passes))
    assert counts[0] == counts[1] > 4


def test_what_waits_is_planned(source_at):
    source = source_at(prefetch=2)
    (item,) = source.waiting_bytes(
        ["blocks.0.hook_resid_post", "model.layers.1.mlp.up_proj"]
    ).values()
    assert item.n_bytes == (200 + 3 * 64) * (32 * 4 + 12)
    assert item.phase == "training" and item.smaller[0] == "activations.buffer_tokens"


# --- what is computed, and what is kept ----------------------------------------------------------


class Counting:
    """Gives three rows at a time, which hold their number, and notes for which places."""

    def __init__(self):
        self.number, self.asked, self.made, self.fails = 0, [], [], False

    def read_at(self, hook_names):
        self.asked.append((self.number, *hook_names))
        self.number += 1
        if self.fails:
            raise RunError("away")
        rows = {name: Rows(torch.full((3, 1), float(self.number - 1))) for name in hook_names}
        self.made += [weakref.ref(each) for each in rows.values()]
        return rows

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]

    def alive(self):
        gc.collect()
        return sum(made() is not None for made in self.made)


def numbers(reader, n):
    return [int(reader.read().x[0]) for _ in range(n)]


def test_rows_that_wait_are_bounded_and_what_is_forgotten_is_computed_again():
    counting = Counting()
    shared = SharedPasses(counting, most_rows=12, device=CPU)
    ahead, behind = shared.reader("a"), shared.reader("b")
    assert numbers(ahead, 10) == list(range(10))
    assert counting.alive() == 4
    assert numbers(behind, 10) == list(range(10))
    assert counting.asked[10:] == [(n, "a", "b") for n in range(6)]
    assert counting.alive() == 4  # for the one ahead, which will not ask for them


def test_nothing_is_forgotten_within_the_bound():
    counting = Counting()
    shared = SharedPasses(counting, most_rows=12, device=CPU)
    ahead, behind = shared.reader("a"), shared.reader("b")
    assert numbers(ahead, 4) == numbers(behind, 4) == list(range(4))
    assert counting.asked == [(n, "a", "b") for n in range(4)]
    assert counting.alive() == 0


def test_what_waits_for_a_reader_is_not_computed_for_it_again():
    counting = Counting()
    shared = SharedPasses(counting, most_rows=100, device=CPU)
    first, second, _third = (shared.reader(name) for name in "abc")
    begin = first.state_dict()
    numbers(first, 2), numbers(second, 2)
    second.load_state_dict(begin)
    assert numbers(second, 1) == [0] and counting.asked[-1] == (0, "a", "b")
    assert numbers(first, 1) == [2]


def test_a_pass_is_larger_than_the_bound():
    shared = SharedPasses(Counting(), most_rows=1, device=CPU)
    first, second = shared.reader("a"), shared.reader("b")
    for n in range(3):
        assert numbers(first, 1) == numbers(second, 1) == [n]


def test_a_reader_that_nobody_has_any_more_costs_nothing():
    counting = Counting()
    shared = SharedPasses(counting, most_rows=100, device=CPU)
    first, second = shared.reader("a"), shared.reader("b")
    numbers(first, 2)
    del second
    assert counting.alive() == 0
    numbers(first, 1)
    assert counting.asked[-1] == (2, "a")


def test_rows_that_cannot_be_read_are_still_to_come():
    counting = Counting()
    shared = SharedPasses(counting, most_rows=100, device=CPU)
    first, second = shared.reader("a"), shared.reader("b")
    numbers(first, 1)
    counting.fails = True
    with pytest.raises(RunError, match="away"):
        first.read()
    counting.fails = False
    assert numbers(first, 2) == [1, 2] and numbers(second, 3) == [0, 1, 2]
