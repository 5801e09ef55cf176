"""Several SAEs on one stream: each is to the bit what it is alone."""

import gc
import signal
import weakref

import pytest
import torch

from temporal_sae.activations.arrays import ActivationArray
from temporal_sae.errors import RunError
from temporal_sae.sae import StandardSAE, TopKSAE
from temporal_sae.tracker import CoActivationTracker
from temporal_sae.training import Lane, SharedStream, Stopped, train_together
from temporal_sae.training.state_file import from_file
from tests.training.test_trainer import B, D, F, K, Synthetic, make_parts, make_trainer

STEPS = 30


def standard():
    torch.manual_seed(3)
    return StandardSAE(D, F, 0.01, resample_every=6)  # draws from torch's own generator


def topk():
    torch.manual_seed(4)
    return TopKSAE(D, F, K)


KINDS = {
    "topk": {},
    "window": {"tracker": lambda: CoActivationTracker(F, window_size=50)},
    "ordered": {"tracker": lambda: CoActivationTracker(F, window_size=50, stream="ordered")},
    "standard": {"sae": standard},
    "other": {"sae": topk},
}


def parts_of(folder, kind, batches):
    made = {name: make() for name, make in KINDS[kind].items()}
    return make_parts(folder, batches=batches, **made)


class Counted(Synthetic):
    """Counts the batches that are read, and fails or gets a signal at one of them."""

    def __init__(self, stop_at=None, fail_at=None):
        super().__init__(stop_at, ordered=True)
        self.read, self.fail_at = 0, fail_at

    def __next__(self):
        if self.n == self.fail_at:
            raise RunError("the disk is gone")
        self.read += 1
        return super().__next__()


def alone(folder, kind, **options):
    parts = parts_of(folder, kind, Synthetic(ordered=kind == "ordered"))
    make_trainer(steps=STEPS, **options).fit(parts)
    return parts


def lanes_of(folder, kinds, stream, **options):
    shared, lanes = SharedStream(stream), []
    for kind in kinds:
        view = shared.view(ordered=kind == "ordered")
        parts = parts_of(folder / kind, kind, view)
        lanes.append(Lane(make_trainer(steps=STEPS, **options), parts, view))
    return lanes


def weights(parts):
    return {name: tensor.clone() for name, tensor in parts.sae.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, dict):
            assert_same(value, b[name])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, b[name]), name
        elif "second" not in name:
            assert value == b[name] or "second" in str(value), name


def without_times(state):
    left = {"seconds", "stopwatches", "metrics"}
    return {key: value for key, value in state.items() if key not in left}


def newest(folder):
    return without_times(from_file(max(folder.glob("checkpoints/step_*"))))


def test_each_is_to_the_bit_what_it_is_alone_and_a_batch_is_read_once(tmp_path):
    stream = Counted()
    lanes = lanes_of(tmp_path / "together", KINDS, stream, checkpoint_every=7)
    train_together(lanes)
    assert stream.read == STEPS
    for lane, kind in zip(lanes, KINDS, strict=True):
        assert lane.error is None and lane.run.step == STEPS
        one = alone(tmp_path / "alone" / kind, kind, checkpoint_every=7)
        assert_same(weights(lane.parts), weights(one))
        assert_same(newest(tmp_path / "together" / kind), newest(tmp_path / "alone" / kind))


def test_of_a_stream_with_a_buffer_the_checkpoints_are_the_same_too(tmp_path):
    x = torch.randn(4000, D, generator=torch.Generator().manual_seed(0))

    def stream():
        source = ActivationArray(x, buffer_tokens=4 * B)
        source.open()
        return source.stream(B, seed=1)

    lanes = lanes_of(tmp_path / "together", ("topk", "other"), stream(), checkpoint_every=10)
    train_together(lanes)
    parts = parts_of(tmp_path / "alone", "other", stream())
    make_trainer(steps=STEPS, checkpoint_every=10).fit(parts)
    assert_same(newest(tmp_path / "together" / "other"), newest(tmp_path / "alone"))
    assert lanes[0].view.scale == parts.stream.scale != 1.0


def test_one_that_fails_ends_alone(tmp_path):
    lanes = lanes_of(tmp_path, ("topk", "window", "other"), Counted())
    with torch.no_grad():
        lanes[1].parts.sae.W_enc[0, 0] = torch.nan
    train_together(lanes)
    assert isinstance(lanes[1].error, RunError) and "is not finite" in str(lanes[1].error)
    assert [lanes[0].error, lanes[2].error] == [None, None]
    assert_same(weights(lanes[2].parts), weights(alone(tmp_path / "alone", "other")))


@pytest.mark.parametrize("steps_before", [(10, None, 20), (10, 20, 20), (None, STEPS, 5)])
def test_those_that_go_on_from_later_steps_wait_for_the_others(tmp_path, steps_before):
    kinds = ("topk", "standard", "other")
    for kind, step in zip(kinds, steps_before, strict=True):
        if step == STEPS:
            alone(tmp_path / kind, kind)
        elif step:
            with pytest.raises(Stopped):
                make_trainer(steps=STEPS).fit(
                    parts_of(tmp_path / kind, kind, Synthetic(stop_at=step))
                )
    stream = Counted()
    lanes = lanes_of(tmp_path, kinds, stream)
    train_together(lanes)
    assert stream.read == STEPS - min(step or 0 for step in steps_before)
    for lane, kind in zip(lanes, kinds, strict=True):
        assert_same(weights(lane.parts), weights(alone(tmp_path / "alone" / kind, kind)))


def test_one_that_waits_is_reached_when_those_before_it_have_failed(tmp_path):
    with pytest.raises(Stopped):
        make_trainer(steps=STEPS).fit(parts_of(tmp_path / "other", "other", Synthetic(stop_at=20)))
    lanes = lanes_of(tmp_path, ("topk", "other"), Counted())
    with torch.no_grad():
        lanes[0].parts.sae.W_enc[0, 0] = torch.nan
    train_together(lanes)
    assert lanes[0].error is not None
    assert_same(weights(lanes[1].parts), weights(alone(tmp_path / "alone", "other")))


def test_a_signal_stops_all_at_one_step_and_each_goes_on_from_there(tmp_path):
    kinds = ("topk", "standard")
    lanes = lanes_of(tmp_path, kinds, Counted(stop_at=12))
    train_together(lanes)
    for lane in lanes:
        assert isinstance(lane.error, Stopped) and lane.error.step == 12
        assert lane.error.signal_number == signal.SIGTERM
    lanes = lanes_of(tmp_path, kinds, Counted())
    train_together(lanes)
    for lane, kind in zip(lanes, kinds, strict=True):
        assert_same(weights(lane.parts), weights(alone(tmp_path / "alone" / kind, kind)))


def test_where_the_stream_cannot_be_read_on_each_has_a_checkpoint_of_where_it_is(tmp_path):
    with pytest.raises(Stopped):
        make_trainer(steps=STEPS).fit(parts_of(tmp_path / "other", "other", Synthetic(stop_at=20)))
    lanes = lanes_of(tmp_path, ("topk", "window", "other"), Counted(fail_at=15))
    folders = [lane.parts.checkpoints.folder.parent for lane in lanes]
    train_together(lanes)
    for lane, folder, step in zip(lanes, folders, (15, 15, 20), strict=True):
        assert "the disk is gone; a checkpoint of step" in str(lane.error)
        assert newest(folder)["step"] == step
    lanes = lanes_of(tmp_path, ("topk", "window", "other"), Counted())
    train_together(lanes)
    for lane, kind in zip(lanes, ("topk", "window", "other"), strict=True):
        assert_same(weights(lane.parts), weights(alone(tmp_path / "alone" / kind, kind)))


def test_they_share_the_seconds_of_reading(tmp_path, monkeypatch):
    time = [0.0]
    for module in ("streams", "stopwatch"):
        monkeypatch.setattr(f"temporal_sae.training.{module}.now", lambda: time[0])

    class Slow(Synthetic):
        def __next__(self):
            time[0] += 6.0
            return super().__next__()

    lanes = lanes_of(tmp_path, ("topk", "window", "other"), Slow())
    train_together(lanes)
    assert [lane.run.seconds for lane in lanes] == pytest.approx([2.0 * STEPS] * 3)


def test_what_is_done_for_one_is_done_within_its_context(tmp_path):
    entered, shared = [], SharedStream(Counted())
    lanes = []
    for kind in ("topk", "other"):

        class About:
            def __init__(self, kind=kind):
                self.kind = kind

            def __enter__(self):
                entered.append(self.kind)

            def __exit__(self, *error):
                entered.append("out")

        view = shared.view()
        parts = parts_of(tmp_path / kind, kind, view)
        lanes.append(Lane(make_trainer(steps=5), parts, view, About))
    train_together(lanes)
    assert entered == ["topk", "out", "other", "out"] * 6  # the beginning and five steps


def test_what_is_raised_in_place_of_a_batch_is_raised_for_all(tmp_path):
    class Broken(Counted):
        def __next__(self):
            if self.n == 10:
                self.n += 1  # it would go on with the one after
                raise OSError("for a moment")
            return super().__next__()

    lanes = lanes_of(tmp_path, ("topk", "other"), Broken())
    train_together(lanes)
    assert [str(lane.error) for lane in lanes] == ["for a moment"] * 2


class Watching(Counted):
    """Tells at batch 20 which of some objects are there."""

    def __init__(self):
        super().__init__()
        self.watched, self.there = {}, {}

    def __next__(self):
        batch = super().__next__()
        if self.read == 1:
            self.watched["first batch"] = weakref.ref(batch.x)
        if self.read == 20:
            gc.collect()
            self.there = {name: ref() is not None for name, ref in self.watched.items()}
        return batch


def test_nothing_is_held_of_one_that_has_failed_while_the_others_train(tmp_path):
    stream = Watching()
    lanes = lanes_of(tmp_path, ("topk", "other"), stream)
    with torch.no_grad():
        lanes[0].parts.sae.W_enc[0, 0] = torch.nan
    stream.watched = {str(n): weakref.ref(lane.parts.sae) for n, lane in enumerate(lanes)}
    train_together(lanes)
    assert "is not finite" in str(lanes[0].error)
    assert lanes[0].error.__traceback__ is not None
    assert stream.there == {"0": False, "1": True, "first batch": False}


def test_a_stream_is_let_go_when_its_last_one_has_ended(tmp_path):
    class Scaled(Counted):
        scale, released = 2.0, 0

        def release(self, seconds):
            assert self.read == 6
            Scaled.released += 1

    first, second = Scaled(), Watching()
    second.watched["stream"] = weakref.ref(first)
    short, long = SharedStream(first), SharedStream(second)
    del first
    views = [short.view(), short.view(), long.view()]
    lanes = [
        Lane(make_trainer(steps=steps), parts_of(tmp_path / str(n), "topk", view), view)
        for n, (steps, view) in enumerate(zip((5, 6, STEPS), views, strict=True))
    ]
    with short.released():
        train_together(lanes)
    assert [lane.error for lane in lanes] == [None] * 3
    assert second.there == {"stream": False, "first batch": False}
    assert (Scaled.released, views[0].scale, views[1].scale) == (1, 2.0, 2.0)


def test_a_failure_is_told_while_the_others_go_on(tmp_path):
    stream, failed_after = Counted(), []
    shared, lanes = SharedStream(stream), []
    for kind in ("topk", "other"):
        view = shared.view()
        parts = parts_of(tmp_path / kind, kind, view)
        told = [failed_after.append] if kind == "topk" else [pytest.fail]
        failed = lambda error, told=told: told[0](stream.read)  # noqa: E731
        lanes.append(Lane(make_trainer(steps=STEPS), parts, view, when_failed=failed))
    with torch.no_grad():
        lanes[0].parts.sae.W_enc[0, 0] = torch.nan
    train_together(lanes)
    assert failed_after == [1] and stream.read == STEPS
