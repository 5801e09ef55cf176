"""The end of a run: no more is read than it needs, whatever it is trained beside."""

import signal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.activations.arrays import ActivationArray
from temporal_sae.activations.batches import ActivationBatches
from temporal_sae.tracker import CoActivationTracker
from temporal_sae.training import Lane, SharedStream, Stopped, train_together
from tests.training.test_together import assert_same, newest, parts_of, weights
from tests.training.test_trainer import B, D, F, make_parts, make_trainer

BUFFER, CHUNK = 6 * B, B + 8


def numbered(n):
    """Rows that tell their numbers."""
    x = torch.ones(n, D)
    x[:, 0] = torch.arange(n)
    return x


def stream_of(x, chunk=CHUNK, buffer_tokens=BUFFER, **options):
    """A stream from a list, which is read again where it ends, and the rows it has read."""
    source = ActivationBatches(
        [*x.split(chunk)], held_out_rows=0, buffer_tokens=buffer_tokens, **options
    )
    source.open()
    stream, n_read = source.stream(B, seed=0), [0]
    read = stream.reader.read

    def counted():
        rows = read()
        n_read[0] += len(rows)
        return rows

    stream.reader.read = counted
    return stream, n_read


def views_of(stream, ends, ordered=()):
    """Views of runs of so many batches, none of which has begun."""
    shared = SharedStream(stream)
    views = [shared.view(n in ordered) for n in range(len(ends))]
    for view, end in zip(views, ends, strict=True):
        view.join(0, end)
    return views


def taken(views):
    """Everything that the views give, in turn: the numbers of the rows, batch by batch."""
    found = [[] for _ in views]
    while going := [(n, view) for n, view in enumerate(views) if not view.is_complete]:
        for n, view in going:
            found[n].append(next(view))
            if view.is_complete:
                view.leave()
    return found


def numbers(batches):
    return [batch.x[:, 0].int().tolist() for batch in batches]


def rows_of(batches):
    return [number for batch in numbers(batches) for number in batch]


def ordered_numbers(batches):
    return [int(n) for batch in batches for rows in batch.ordered for n in rows.x[:, 0]]


@pytest.mark.parametrize("chunk", [5, B, CHUNK, 3 * B])
@pytest.mark.parametrize("steps", [1, 5, 6, 7, 20])
def test_no_more_is_read_than_is_needed_and_only_the_end_is_another(steps, chunk):
    x = numbered(100 * B)
    stream, n_read = stream_of(x, chunk, normalize=False)
    (batches,) = taken(views_of(stream, [steps]))
    most = max(steps * B, BUFFER) + chunk + (B if chunk < B else 0)
    assert max(steps * B, BUFFER) <= n_read[0] < most
    rows = rows_of(batches)
    assert len({*rows}) == len(rows) == steps * B and max(rows) < n_read[0]
    endless, _ = stream_of(x, chunk, normalize=False)
    n_same = max(0, steps - BUFFER // B - -(-chunk // B))
    first = numbers([next(endless) for _ in range(steps)])
    assert numbers(batches)[:n_same] == first[:n_same]


@given(
    st.lists(st.integers(1, 24), min_size=1, max_size=5),
    st.sets(st.integers(0, 4)),
    st.sampled_from([5, CHUNK]),
)
@settings(max_examples=25, deadline=None)
def test_runs_of_other_lengths_beside_it_change_nothing(ends, ordered, chunk):
    x = numbered(50 * B)
    together = taken(views_of(stream_of(x, chunk)[0], ends, ordered))
    for n, end in enumerate(ends):
        (alone,) = taken(views_of(stream_of(x, chunk)[0], [end], {0} if n in ordered else ()))
        assert all(torch.equal(a.x, b.x) for a, b in zip(alone, together[n], strict=True))
        assert ordered_numbers(alone) == ordered_numbers(together[n])


def test_to_a_tracker_in_stream_order_rows_come_until_the_end():
    x, steps = numbered(100 * B), 20
    (plain,) = taken(views_of(stream_of(x, normalize=False)[0], [steps]))
    (batches,) = taken(views_of(stream_of(x, normalize=False)[0], [steps], {0}))
    assert numbers(batches) == numbers(plain)
    endless, _ = stream_of(x, normalize=False)
    endless.ordered = True
    expected = [next(endless) for _ in range(steps)]
    assert [len(b.ordered) for b in batches] == [len(b.ordered) for b in expected]
    assert ordered_numbers(batches) == ordered_numbers(expected)
    assert len(ordered_numbers(batches)) >= steps * B + BUFFER - B


def test_the_last_rows_are_mixed_like_any():
    """Rows that lie together leave as far apart as any two of what was held."""
    steps = 64
    stream, _ = stream_of(numbered(400 * B), buffer_tokens=64 * B, normalize=False)
    (batches,) = taken(views_of(stream, [steps]))
    rows = torch.tensor(rows_of(batches))
    place = torch.full((65 * B,), -1)
    place[rows] = torch.arange(len(rows))
    both = (place[1:] >= 0) & (place[:-1] >= 0)
    apart = (place[1:] - place[:-1]).abs()[both].float()
    assert float(apart.mean()) == pytest.approx(steps * B / 3, rel=0.1)


def test_rows_in_their_order_stay_in_it():
    stream, n_read = stream_of(numbered(100 * B), buffer_tokens=B, normalize=False)
    (batches,) = taken(views_of(stream, [10]))
    assert rows_of(batches) == [*range(10 * B)]
    assert n_read[0] < 10 * B + CHUNK


@pytest.mark.parametrize("buffer_tokens", [4 * B, 1000 * B])
def test_in_a_pass_every_row_is_trained_on_once(buffer_tokens):
    n_steps = 10
    x = numbered(n_steps * B)
    source = ActivationArray(x, buffer_tokens=buffer_tokens, held_out_fraction=0, normalize=False)
    source.open()
    (batches,) = taken(views_of(source.stream(B, 0), [n_steps]))
    assert sorted(rows_of(batches)) == [*range(n_steps * B)]


def test_what_is_read_ahead_ends_too():
    stream, n_read = stream_of(numbered(200 * B))
    plain = taken(views_of(stream, [20]))[0]
    source = ActivationBatches(
        [*numbered(200 * B).split(CHUNK)], 0, buffer_tokens=BUFFER, prefetch=3
    )
    source.open()
    stream = source.stream(B, 0)
    batches = taken(views_of(stream, [20]))[0]
    assert all(torch.equal(a.x, b.x) for a, b in zip(batches, plain, strict=True))
    assert n_read[0] <= stream.reader.reader.n_rows <= n_read[0] + 3 * CHUNK


# Whole trainings, with checkpoints.

ROWS = torch.randn(40 * B, D, generator=torch.Generator().manual_seed(0))
KINDS = ("topk", "ordered", "standard")


def lane_of(folder, kind, view, steps, stop_at=None):
    parts = parts_of(folder, kind, view)
    if stop_at is not None:
        log = parts.logger.log

        def stopping(step, metrics):
            log(step, metrics)
            if step == stop_at:
                signal.raise_signal(signal.SIGTERM)

        parts.logger.log = stopping
    return Lane(make_trainer(steps=steps, log_every=1, checkpoint_every=7), parts, view)


def train(folder, runs, stop_at=None):
    """Train runs (kind, steps) side by side; a signal comes after step `stop_at`."""
    shared = SharedStream(stream_of(ROWS)[0])
    views = [shared.view(kind == "ordered") for kind, _ in runs]
    lanes = [
        lane_of(folder / f"{kind}{steps}", kind, view, steps, stop_at if n == 0 else None)
        for n, ((kind, steps), view) in enumerate(zip(runs, views, strict=True))
    ]
    train_together(lanes)
    return lanes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop_at", [3, 13, 14, 17])
def test_a_run_that_goes_on_anywhere_is_the_same(tmp_path, kind, stop_at):
    (whole,) = train(tmp_path / "whole", [(kind, 20)])
    (stopped,) = train(tmp_path / "parts", [(kind, 20)], stop_at)
    assert isinstance(stopped.error, Stopped) and stopped.error.step == stop_at
    (lane,) = train(tmp_path / "parts", [(kind, 20)])
    assert_same(weights(lane.parts), weights(whole.parts))
    a, b = (newest(tmp_path / each / f"{kind}20") for each in ("whole", "parts"))
    assert_same(a, b)


@pytest.mark.parametrize("stop_at", [None, 3, 10, 17])
def test_runs_of_other_lengths_are_what_they_are_alone(tmp_path, stop_at):
    runs = [("topk", 20), ("standard", 12), ("ordered", 15), ("other", 6), ("window", 20)]
    if stop_at is not None:
        train(tmp_path / "together", runs, stop_at)
    lanes = train(tmp_path / "together", runs)
    for lane, (kind, steps) in zip(lanes, runs, strict=True):
        assert lane.error is None and lane.run.step == steps
        (alone,) = train(tmp_path / "alone", [(kind, steps)])
        assert_same(weights(lane.parts), weights(alone.parts))
        name = f"{kind}{steps}"
        assert_same(newest(tmp_path / "together" / name), newest(tmp_path / "alone" / name))


def test_a_trainer_that_is_given_a_source_or_its_stream_does_the_same(tmp_path):
    (lane,) = train(tmp_path / "view", [("topk", 12)])
    source = ActivationBatches([*ROWS.split(CHUNK)], 0, buffer_tokens=BUFFER)
    stream, n_read = stream_of(ROWS)
    for name, batches in (("source", source), ("stream", stream)):
        parts = parts_of(tmp_path / name, "topk", batches)
        make_trainer(steps=12, log_every=1, checkpoint_every=7).fit(parts)
        assert_same(weights(parts), weights(lane.parts))
    assert n_read[0] < 12 * B + CHUNK


def noted(view):
    """Return a list to which the batches are added that a view will take."""
    batches, take = [], view.shared.take

    def taking(view):
        batches.append(take(view))
        return batches[-1]

    view.shared.take = taking
    return batches


def test_a_longer_run_goes_on_with_the_batches_of_its_length(tmp_path):
    """Those after the end are the ones of a run that was to be that long from the beginning."""
    seen = {}
    for name, length, where in (("short", 10, "a"), ("longer", 30, "a"), ("long", 30, "b")):
        stream, n_read = stream_of(ROWS)
        view = SharedStream(stream).view()
        parts = make_parts(tmp_path / where, batches=view, tracker=CoActivationTracker(F))
        batches = noted(view)
        lane = Lane(make_trainer(steps=length), parts, view)
        train_together([lane])
        assert lane.error is None and lane.run.step == length
        seen[name] = batches
        assert n_read[0] < length * B + 2 * CHUNK
    assert len(seen["short"]) == 10 and len(seen["longer"]) == 20
    after = seen["long"][10:]
    assert all(torch.equal(a.x, b.x) for a, b in zip(seen["longer"], after, strict=True))
