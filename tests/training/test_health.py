"""A NaN or an infinity stops a run at its step, in one line, and never gets into a checkpoint."""

import re
from dataclasses import replace

import pytest
import torch

from temporal_sae.activations import ActivationBatch, Rows
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.sae import StandardSAE, TopKSAE
from temporal_sae.tracker import NoTracker
from temporal_sae.training import trainer as trainer_module
from temporal_sae.training.health import Health
from tests.training.test_trainer import (
    ARCHITECTURES,
    B,
    D,
    F,
    K,
    Synthetic,
    equal_states,
    make_parts,
    make_trainer,
    weights,
)

NAN, INF = float("nan"), float("inf")


class NonFiniteBatches(Synthetic):
    """One number of one step's activations is not finite."""

    def __init__(self, step, bad=NAN):
        super().__init__()
        self.step, self.bad = step, bad

    def __next__(self):
        x = super().__next__().x
        if self.n == self.step:
            x[5, 3] = self.bad
        return ActivationBatch(Rows(x))


class NonFiniteTerm(TopKSAE):
    """A loss that becomes NaN at a step, and one whose gradient alone does."""

    def __init__(self, step, only_gradient=False):
        super().__init__(D, F, K)
        self.step, self.only_gradient = step, only_gradient

    def training_step(self, x, context):
        out = super().training_step(x, context)
        odd = self.b_dec.sum() * (NAN if context.step == self.step - 1 else 0.0)
        if self.only_gradient:  # √0: a slope of ∞ on something that does not move
            at = 0.0 if context.step == self.step - 1 else 1.0
            odd = ((self.b_dec * 0 + at).sqrt() - at).sum()
        return replace(out, terms={**out.terms, "odd": odd})


class NonFinitePenalty(OrthogonalityLoss):
    """NaN at a step; its gradient stays as it is."""

    def __init__(self, step):
        super().__init__()
        self.step, self.calls = step, 0

    def add_gradient(self, W_dec, tracker, into):
        penalty = super().add_gradient(W_dec, tracker, into)
        self.calls += 1
        return penalty * (NAN if self.calls == self.step else 1.0)


def seeded(make):
    torch.manual_seed(0)
    return make()


CASES = {
    "NaN in the activations": (lambda n: {"batches": NonFiniteBatches(n)}, "batch of activations"),
    "infinity in the activations": (
        lambda n: {"batches": NonFiniteBatches(n, -INF)},
        "batch of activations",
    ),
    "a term": (lambda n: {"sae": NonFiniteTerm(n)}, "odd loss"),
    "the gradient": (lambda n: {"sae": NonFiniteTerm(n, only_gradient=True)}, "gradient"),
    "the penalty": (lambda n: {"penalty": NonFinitePenalty(n)}, "orthogonality loss"),
}


def assert_one_line(error, step, name, checkpoint):
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"step {step}: the {name} is not finite; ")
    if checkpoint is None:
        assert message.endswith("no checkpoint was made")
    else:
        pattern = (
            rf"the last good checkpoint is step_{checkpoint:09d}\.[0-9a-f]{{16}}\.safetensors$"
        )
        assert re.search(pattern, message), message


def assert_checkpoints_are_sound(parts, steps):
    files = parts.checkpoints.files()
    assert [int(path.name[5:14]) for path in files] == steps
    for _ in files:
        state = parts.checkpoints.load_newest()
        assert all_finite(state)
        parts.checkpoints.files()[0].unlink()


def all_finite(state):
    if isinstance(state, dict):
        return all(map(all_finite, state.values()))
    if isinstance(state, torch.Tensor) and state.is_floating_point():
        return bool(torch.isfinite(state).all())
    return not isinstance(state, float) or abs(state) < INF


@pytest.mark.parametrize(
    ("case", "step", "saved"),
    [
        *((case, step, saved) for case in CASES for step, saved in ((7, []), (8, [7]))),
        ("the gradient", 1, []),
        ("the gradient", 25, [21, 14]),
    ],
)
def test_the_run_stops_at_that_very_step(tmp_path, case, step, saved):
    """Checkpoints are due at 7, 14, 21 and 28: not even the one of the step itself is written."""
    make, name = CASES[case]
    parts = make_parts(tmp_path, **make(step))
    with pytest.raises(RunError) as error:
        make_trainer(log_every=1000).fit(parts)
    assert_one_line(error, step, name, saved[0] if saved else None)
    assert parts.batches.n == step
    assert_checkpoints_are_sound(parts, saved)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("step", "bad"), [("sparse", NAN), ("dense", INF)])
def test_every_architecture_stops_for_activations_that_are_not_finite(
    tmp_path, architecture, step, bad
):
    parts = make_parts(
        tmp_path, sae=seeded(ARCHITECTURES[architecture]), batches=NonFiniteBatches(4, bad)
    )
    with pytest.raises(RunError) as error:
        make_trainer(checkpoint_every=1, step=step).fit(parts)
    assert_one_line(error, 4, "batch of activations", 3)
    assert all(torch.isfinite(p).all() for p in parts.sae.parameters())
    assert_checkpoints_are_sound(parts, [3, 2])


@pytest.mark.parametrize("name", ["standard", "standard_free"])
def test_activations_that_are_not_finite_at_a_step_that_resamples(tmp_path, name):
    """Dead latents would be pointed at tokens drawn by an error that is NaN."""
    sae = seeded(ARCHITECTURES[name])
    sae.b_enc.data[::3] = -100.0
    parts = make_parts(tmp_path, sae=sae, batches=NonFiniteBatches(6))
    with pytest.raises(RunError) as error:
        make_trainer(checkpoint_every=1, dead_after_tokens=2 * B).fit(parts)
    assert_one_line(error, 6, "batch of activations", 5)


@pytest.mark.parametrize("gram", ["decoder", "activations"])
@pytest.mark.parametrize("tracked", [True, False])
def test_any_penalty_and_none(tmp_path, gram, tracked):
    parts = make_parts(
        tmp_path,
        batches=NonFiniteBatches(4),
        tracker=None if tracked else NoTracker(F),
        penalty=OrthogonalityLoss(gram=gram),
    )
    with pytest.raises(RunError) as error:
        make_trainer(checkpoint_every=1).fit(parts)
    assert_one_line(error, 4, "batch of activations", 3)


def test_weights_that_are_not_finite_from_the_start(tmp_path):
    """The step that uses them names what came of it."""
    for name in ("W_enc", "W_dec"):
        parts = make_parts(tmp_path / name)
        getattr(parts.sae, name).data[0, 0] = NAN
        with pytest.raises(RunError) as error:
            make_trainer(checkpoint_every=1).fit(parts)
        assert_one_line(error, 1, "reconstruction loss", None)
        assert parts.checkpoints.files() == []


def test_eps_of_zero_makes_no_checkpoint_that_is_not_finite(tmp_path):
    """A latent that never fires has a gradient of 0 and an average of 0: Adam's 0 / (0 + eps)."""
    try:
        trainer = make_trainer(steps=3, warmup_steps=0, checkpoint_every=1, eps=0.0)
    except InvalidOption as error:
        assert error.option == "eps"
        return
    sae = seeded(lambda: StandardSAE(D, F, 0.01))
    sae.b_enc.data[:4] = -100.0
    parts = make_parts(tmp_path, sae=sae, penalty=OrthogonalityLoss(0.0))
    try:
        trainer.fit(parts)
    except RunError as error:
        assert "\n" not in str(error)
    for _ in parts.checkpoints.files():
        assert all_finite(parts.checkpoints.load_newest())
        parts.checkpoints.files()[0].unlink()


def test_a_run_that_stopped_can_be_continued_where_it_was_sound(tmp_path):
    """As somebody does who has lowered the rate, or whose memory was at fault."""
    whole = make_parts(tmp_path / "a")
    make_trainer().fit(whole)
    bad = make_parts(tmp_path / "b", batches=NonFiniteBatches(17))
    with pytest.raises(RunError):
        make_trainer().fit(bad)
    continued = make_parts(tmp_path / "b")
    assert make_trainer().fit(continued).step == 30
    assert equal_states(weights(whole), weights(continued))


# As on a GPU, where looking at once would mean waiting for it.


@pytest.fixture
def patient(monkeypatch):
    """A trainer on the CPU whose health behaves as on a GPU."""
    monkeypatch.setattr(
        trainer_module, "Health", lambda device, last: Health(torch.device("cuda"), last)
    )


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("step", "log_every", "found_at", "saved"),
    [
        (3, 5, 5, []),  # by the logged step
        (3, 1000, 7, []),  # by the checkpoint that is due
        (9, 1000, 14, [7]),
        (29, 1000, 30, [28, 21]),  # by the last step
    ],
)
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_it_is_remembered(tmp_path, case, step, log_every, found_at, saved):
    make, name = CASES[case]
    parts = make_parts(tmp_path, **make(step))
    with pytest.raises(RunError) as error:
        make_trainer(log_every=log_every).fit(parts)
    assert_one_line(error, step, name, saved[0] if saved else None)
    assert parts.batches.n == found_at
    assert all(torch.isfinite(p).all() for p in parts.sae.parameters())
    assert_checkpoints_are_sound(parts, saved)


@pytest.mark.usefixtures("patient")
def test_on_a_gpu_a_signal_to_stop_saves_nothing_that_is_not_finite(tmp_path):
    class Stopping(NonFiniteBatches):
        def __next__(self):
            self.stop_at = 5
            return super().__next__()

    parts = make_parts(tmp_path, batches=Stopping(3))
    with pytest.raises(RunError) as error:
        make_trainer(log_every=1000).fit(parts)
    assert_one_line(error, 3, "batch of activations", None)
    assert parts.checkpoints.files() == []


def health(at="cuda"):
    return Health(torch.device(at), lambda: "no checkpoint was made")


GOOD, BAD = torch.ones(3), torch.tensor([1.0, INF, 1.0])


def test_nothing_is_said_of_what_is_finite():
    for at in ("cpu", "cuda"):
        watching = health(at)
        for step in range(5):
            watching.check(step, {"x": GOOD, "y": torch.tensor(step)})
        watching.raise_if_not_finite()


def test_on_the_cpu_at_once():
    with pytest.raises(RunError, match="step 4: the y is not finite"):
        health("cpu").check(4, {"x": GOOD, "y": BAD})


def test_the_first_step_and_the_first_name_are_kept():
    watching = health()
    watching.check(1, {"x": GOOD, "y": GOOD, "z": GOOD})
    watching.check(2, {"x": GOOD, "y": BAD, "z": BAD})
    watching.check(3, {"x": BAD, "y": BAD, "z": GOOD})
    for _ in range(2):  # asking changes nothing
        with pytest.raises(RunError, match="step 2: the y is not finite"):
            watching.raise_if_not_finite()


def test_the_first_step_is_kept_whatever_is_watched():
    """What is watched changes with AuxK, which comes and goes with dead latents."""
    watching = health()
    watching.check(1, {"x": GOOD})
    watching.check(2, {"x": GOOD, "auxk": BAD})
    watching.check(3, {"x": BAD})
    with pytest.raises(RunError, match="step 2: the auxk is not finite"):
        watching.raise_if_not_finite()


def test_the_checkpoint_is_the_newest_when_it_is_said():
    names = iter(["one", "two"])
    watching = Health(torch.device("cuda"), lambda: f"the last good checkpoint is {next(names)}")
    watching.check(1, {"x": BAD})
    for name in ("one", "two"):
        with pytest.raises(RunError, match=f"the last good checkpoint is {name}"):
            watching.raise_if_not_finite()


def test_the_advice_is_of_the_config_keys():
    for name, advice in (("batch of activations", "model.dtype"), ("gradient", "trainer.lr")):
        with pytest.raises(RunError, match=advice):
            health("cpu").check(1, {name: BAD})


def test_checking_waits_for_nothing_on_a_gpu():
    from tests.kernels.back_ends import NothingWaits

    watching = health()
    with NothingWaits():
        for step in range(3):
            watching.check(step, {"x": GOOD, "y": BAD})
