"""The orthogonality penalty: hand-computed values, identities, gradients, and its estimators."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from temporal_sae.errors import InvalidOption
from temporal_sae.experiment.build import warn_if_idle
from temporal_sae.latents import Latents
from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.tracker import CoActivationTracker, NoTracker, TranscriptTracker, all_weightings

HAND_W_DEC = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
HAND_WINDOW = torch.tensor([[0, 1], [0, 1], [0, 2], [1, -1]])


def hand_tracker():
    tracker = CoActivationTracker(3, window_size=4)
    tracker.update(HAND_WINDOW)
    return tracker


def random_tracker(n=20, k=5, window=64, windows=3, seed=0):
    torch.manual_seed(seed)
    tracker = CoActivationTracker(n, window_size=window)
    popularity = torch.rand(n) ** 3 + 0.02
    tracker.update(torch.multinomial(popularity.expand(window * windows, n), k))
    return tracker


def test_hand_example():
    tracker = hand_tracker()
    options = {"ortho_weight": 1.0, "penalty": "abs", "estimator": "exact"}
    assert float(OrthogonalityLoss(reduction="sum", **options)(HAND_W_DEC, tracker)) == (
        pytest.approx(0.3)
    )
    assert float(OrthogonalityLoss(**options)(HAND_W_DEC, tracker)) == pytest.approx(0.4)
    assert float(OrthogonalityLoss(reduction="mean", **options)(HAND_W_DEC, tracker)) == (
        pytest.approx(2 * 0.3 / 9)
    )


def test_squared_cosines_and_ortho_weight():
    loss = OrthogonalityLoss(ortho_weight=3.0, estimator="exact")
    expected = 3.0 * (0.5 * 0.36 + 0.25 * 0.0) / 0.75
    assert float(loss(HAND_W_DEC, hand_tracker())) == pytest.approx(expected)


def test_activation_gram_by_hand():
    latents = Latents(torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([[0, 1], [0, 2]]))
    # f_0ᵀf_1 / B = 1, f_0ᵀf_2 / B = 1.5; weights .5 and .25
    for penalty, expected in (("abs", 0.5 + 0.375), ("square", 0.5 + 0.25 * 2.25)):
        loss = OrthogonalityLoss(1.0, penalty, "activations", "sum")
        assert float(loss(HAND_W_DEC, hand_tracker(), latents)) == pytest.approx(expected)


def test_activation_gram_trains_the_latents_and_not_the_decoder():
    values = torch.tensor([[1.0, 2.0], [3.0, 1.0]], requires_grad=True)
    W_dec = HAND_W_DEC.clone().requires_grad_()
    latents = Latents(values, torch.tensor([[0, 1], [0, 2]]))
    OrthogonalityLoss(gram="activations")(W_dec, hand_tracker(), latents).backward()
    assert values.grad.abs().sum() > 0
    assert W_dec.grad is None


def test_floor_mixes_in_every_pair():
    loss = OrthogonalityLoss(
        1.0, weighting="co_activation", floor=1.0, reduction="sum", estimator="exact"
    )
    by_weight = (0.5 * 0.36) / 1.5  # Σ over ordered pairs is 1.5
    by_floor = (0.36 + 0.64 + 0.0) / 6
    assert float(loss(HAND_W_DEC, hand_tracker())) == pytest.approx(by_weight + by_floor)


def test_weighted_mean_with_floor_divides_by_the_weight_there_is():
    total, mean = (
        float(
            OrthogonalityLoss(1.0, floor=1.0, reduction=r, estimator="exact")(
                HAND_W_DEC, hand_tracker()
            )
        )
        for r in ("sum", "weighted_mean")
    )
    assert mean == pytest.approx(2 * total / 2.0)


def test_uniform_weighting_is_the_frame_potential_and_needs_no_tracker():
    W_dec = torch.randn(30, 8)
    directions = torch.nn.functional.normalize(W_dec, dim=-1)
    cosines = directions @ directions.T - torch.eye(30)
    loss = OrthogonalityLoss(1.0, weighting="uniform", reduction="sum")
    value = float(loss(W_dec, NoTracker(30)))
    assert value == pytest.approx(float(cosines.square().sum()) / 2, rel=1e-5)
    absolute = OrthogonalityLoss(1.0, "abs", weighting="uniform", reduction="sum")
    assert float(absolute(W_dec, NoTracker(30))) == (
        pytest.approx(float(cosines.abs().sum()) / 2, rel=1e-5)
    )


@pytest.mark.parametrize("estimator", ["exact", "sampled"])
@pytest.mark.parametrize("penalty", ["square", "abs"])
def test_orthogonal_decoder_costs_nothing(estimator, penalty):
    loss = OrthogonalityLoss(penalty=penalty, estimator=estimator)
    assert float(loss(torch.eye(20), random_tracker())) == 0


@given(st.integers(0, 999), st.sampled_from(["square", "abs"]))
@settings(max_examples=20, deadline=None)
def test_weighted_mean_is_between_0_and_1_and_blind_to_row_lengths(seed, penalty):
    tracker = random_tracker(seed=seed)
    W_dec = torch.randn(20, 6)
    loss = OrthogonalityLoss(1.0, penalty)
    value = float(loss(W_dec, tracker))
    assert 0 <= value <= 1
    stretched = W_dec * torch.rand(20, 1).add(0.1)
    assert float(loss(stretched, tracker)) == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("estimator", ["exact", "sampled"])
@pytest.mark.parametrize("floor", [0.0, 1.0])
def test_gradient_is_orthogonal_to_every_row(estimator, floor):
    W_dec = torch.randn(20, 6, dtype=torch.float64, requires_grad=True)
    OrthogonalityLoss(estimator=estimator, floor=floor)(W_dec, random_tracker()).backward()
    assert W_dec.grad.abs().max() > 0
    along = (W_dec.grad * W_dec).sum(-1) / W_dec.grad.norm(dim=-1).clamp(min=1e-30)
    assert float(along.detach().abs().max()) < 1e-10


@pytest.mark.parametrize("estimator", ["exact", "sampled"])
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum", "mean"])
def test_gradcheck(estimator, reduction):
    W_dec = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    tracker = random_tracker(n=6, k=3, window=8)
    loss = OrthogonalityLoss(reduction=reduction, estimator=estimator, sample_tokens=5, floor=0.5)
    assert torch.autograd.gradcheck(lambda w: loss(w, tracker), W_dec)


@pytest.mark.parametrize(
    "weighting",
    [name for name, w in all_weightings().items() if w.relative and not w.totals_windows],
)
@pytest.mark.parametrize("floor", [0.0, 1.0])
def test_sampling_the_whole_window_is_exact(weighting, floor):
    W_dec, tracker = torch.randn(20, 6), random_tracker()
    exact, sampled = (
        float(
            OrthogonalityLoss(
                weighting=weighting, floor=floor, estimator=estimator, sample_tokens=64
            )(W_dec, tracker)
        )
        for estimator in ("exact", "sampled")
    )
    assert sampled == pytest.approx(exact, rel=1e-4)


def test_sampling_is_unbiased_and_its_spread_is_that_of_the_tokens():
    W_dec, tracker, m = torch.randn(20, 6), random_tracker(), 16
    exact = float(OrthogonalityLoss(1.0, estimator="exact")(W_dec, tracker))
    draws = torch.tensor(
        [
            float(
                OrthogonalityLoss(1.0, estimator="sampled", sample_tokens=m, seed=s)(W_dec, tracker)
            )
            for s in range(400)
        ]
    )
    single = torch.tensor(
        [
            float(
                OrthogonalityLoss(1.0, estimator="sampled", sample_tokens=1, seed=s)(W_dec, tracker)
            )
            for s in range(400)
        ]
    )
    assert float(draws.mean()) == pytest.approx(exact, abs=4 * float(draws.std()) / 20)
    # m of 64 without replacement: variance falls by m, and by the finite population's factor
    expected = float(single.std()) * math.sqrt((64 - m) / 63 / m)
    assert float(draws.std()) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("estimator", ["exact", "sampled"])
def test_a_floor_alone_where_no_pair_has_weight(estimator):
    """In the first window with init=first every s is 0, so that instability_only weighs nothing."""
    W_dec, tracker = torch.randn(20, 6), random_tracker(windows=1)
    loss = OrthogonalityLoss(1.0, weighting="instability_only", floor=2.0, estimator=estimator)
    uniform = OrthogonalityLoss(1.0, weighting="uniform")
    assert float(loss(W_dec, tracker)) == pytest.approx(float(uniform(W_dec, tracker)), rel=1e-4)


def test_auto_samples_only_where_that_is_allowed_and_cheaper():
    n = 2000
    W_dec, auto = torch.randn(n, 4), OrthogonalityLoss(1.0, sample_tokens=8)
    exact = OrthogonalityLoss(1.0, estimator="exact")

    def differ(tracker, k):
        tracker.update(torch.stack([torch.randperm(n)[:k] for _ in range(50)]))
        return float(auto(W_dec, tracker)) != pytest.approx(float(exact(W_dec, tracker)), rel=1e-3)

    assert differ(CoActivationTracker(n, window_size=50), 40)
    assert not differ(CoActivationTracker(n, window_size=50), 8)  # few pairs: exact is cheap
    assert not differ(CoActivationTracker(n, window_size=50), 600)  # as a ReLU SAE starts
    transcript = TranscriptTracker(n, window_size=50)
    assert not differ(transcript, 8)  # its weights are no function of the window's pairs
    with pytest.raises(InvalidOption, match="estimator"):
        OrthogonalityLoss(estimator="sampled")(W_dec, transcript)


@pytest.mark.parametrize(("n", "chosen"), [(256, "exact"), (257, "sampled"), (1024, "sampled")])
def test_auto_is_exact_while_the_matrix_of_pairs_is_small(n, chosen):
    """The exact sum grows with F²: at 1024 latents it took fifteen times as long as sampling."""
    tracker = CoActivationTracker(n, window_size=200)
    tracker.update(torch.stack([torch.randperm(n)[:32] for _ in range(200)]))
    W_dec = torch.randn(n, 4)
    auto, asked = OrthogonalityLoss(), OrthogonalityLoss(estimator=chosen)
    assert torch.equal(auto(W_dec, tracker), asked(W_dec, tracker))


def test_a_draw_is_a_function_of_seed_and_tokens_seen():
    W_dec, tracker = torch.randn(20, 6), random_tracker()
    loss = OrthogonalityLoss(estimator="sampled", sample_tokens=4)
    assert float(loss(W_dec, tracker)) == float(loss(W_dec, tracker))
    before = float(loss(W_dec, tracker))
    tracker.update(torch.tensor([[0, 1]]))
    assert float(loss(W_dec, tracker)) != before


def test_nothing_before_the_first_window_and_nothing_without_weight():
    W_dec = torch.randn(3, 2, requires_grad=True)
    for loss, tracker in (
        (OrthogonalityLoss(), CoActivationTracker(3)),
        (OrthogonalityLoss(0.0), hand_tracker()),
        (OrthogonalityLoss(floor=1.0), NoTracker(3)),
    ):
        value = loss(W_dec, tracker)
        assert float(value) == 0
        assert not value.requires_grad


@pytest.mark.parametrize(
    "options", [{}, {"weighting": "uniform"}, {"floor": 1.0}, {"gram": "activations"}]
)
def test_no_penalty_before_as_many_tokens_as_it_waits_for(options):
    W_dec, latents = torch.randn(20, 6), Latents(torch.rand(3, 20), torch.arange(20).repeat(3, 1))
    tracker = random_tracker()  # has seen 192 tokens in 3 windows
    late, soon, plain = (
        OrthogonalityLoss(start_tokens=tokens, **options) for tokens in (193, 192, 0)
    )
    assert float(late(W_dec, tracker, latents)) == 0
    assert float(soon(W_dec, tracker, latents)) == float(plain(W_dec, tracker, latents)) > 0
    assert [loss.begins_at(tracker) for loss in (late, soon)] == [193, 192]
    tracker.update(torch.tensor([[0, 1]]))
    assert torch.equal(late(W_dec, tracker, latents), plain(W_dec, tracker, latents))
    without = NoTracker(20)
    without.update(torch.zeros(193, 1))
    if options == {"weighting": "uniform"}:
        assert torch.equal(late(W_dec, without), plain(W_dec, without))


@pytest.mark.parametrize(
    "options",
    [
        {"ortho_weight": -1},
        {"start_tokens": -1},
        {"penalty": "cube"},
        {"gram": "encoder"},
        {"reduction": "max"},
        {"weighting": "random"},
        {"floor": -0.1},
        {"estimator": "guess"},
        {"sample_tokens": 0},
        {"estimator": "sampled", "gram": "activations"},
        {"estimator": "sampled", "weighting": "long_average"},
    ],
)
def test_bad_options(options):
    with pytest.raises(InvalidOption):
        OrthogonalityLoss(**options)


TERMS = [
    {"estimator": "exact"},
    {"estimator": "exact", "penalty": "abs"},
    {"estimator": "exact", "weighting": "long_average"},
    {"estimator": "exact", "weighting": "long_average", "penalty": "abs", "floor": 0.5},
    {"estimator": "sampled", "sample_tokens": 5},
    {"estimator": "sampled", "sample_tokens": 5, "penalty": "abs", "weighting": "instability_only"},
    {"weighting": "uniform"},
    {"weighting": "uniform", "penalty": "abs"},
    {"weighting": "stability", "floor": 2.0},
]


@pytest.mark.parametrize("options", TERMS)
def test_every_gradient_is_that_of_finite_differences(options):
    W_dec = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    tracker = random_tracker(n=7, k=3, window=8)
    loss = OrthogonalityLoss(**options)
    assert torch.autograd.gradcheck(lambda w: loss(w, tracker), W_dec)


@pytest.mark.parametrize("options", TERMS)
def test_the_one_pass_gradient_is_that_of_autograd_added_to_what_is_there(options):
    tracker, loss = random_tracker(), OrthogonalityLoss(**options)
    W_dec = torch.randn(20, 6, requires_grad=True)
    value = loss(W_dec, tracker)
    (expected,) = torch.autograd.grad(value, W_dec)
    there = torch.randn(20, 6)
    into = there.clone()
    again = loss.add_gradient(W_dec, tracker, into)
    torch.testing.assert_close(again, value.detach())
    torch.testing.assert_close(into - there, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("penalty", ["square", "abs"])
@pytest.mark.parametrize("weighting", ["instability", "long_average", "uniform"])
def test_gradient_by_the_activations_is_that_of_finite_differences(penalty, weighting):
    tracker = random_tracker(n=9, k=3, window=16)
    indices = torch.stack([torch.randperm(9)[:4] for _ in range(6)])
    values = torch.rand(6, 4, dtype=torch.float64).add(0.2).requires_grad_()
    loss = OrthogonalityLoss(1.0, penalty, "activations", weighting=weighting)
    W_dec = torch.randn(9, 5)
    assert torch.autograd.gradcheck(lambda v: loss(W_dec, tracker, Latents(v, indices)), values)


def test_a_zero_decoder_row_has_no_gradient_along_itself_that_explodes():
    W_dec = torch.randn(20, 6, requires_grad=True)
    W_dec.data[3] = 0
    OrthogonalityLoss(estimator="exact")(W_dec, random_tracker()).backward()
    assert W_dec.grad.isfinite().all()


def test_the_window_walked_by_tokens_and_all_pairs_in_blocks_agree(monkeypatch):
    W_dec, tracker = torch.randn(60, 6), random_tracker(n=60, k=3, window=20)
    loss = OrthogonalityLoss(estimator="exact")
    by_tokens = float(loss(W_dec, tracker))
    monkeypatch.setattr("temporal_sae.loss.sums.PairSums._walks_tokens", lambda self, step: False)
    assert by_tokens == pytest.approx(float(loss(W_dec, tracker)), rel=1e-5)


def test_sampling_latents_for_the_uniform_part_is_unbiased(monkeypatch):
    monkeypatch.setattr("temporal_sae.loss.sums.SAMPLE_ROWS", 16)
    W_dec = torch.nn.functional.normalize(torch.randn(60, 6), dim=-1)
    exact = float(OrthogonalityLoss(1.0, "abs", weighting="uniform")(W_dec, NoTracker(60)))
    draws = torch.tensor(
        [
            float(
                OrthogonalityLoss(1.0, "abs", weighting="uniform", estimator="sampled", seed=seed)(
                    W_dec, NoTracker(60)
                )
            )
            for seed in range(300)
        ]
    )
    assert draws.std() > 0
    assert float(draws.mean()) == pytest.approx(exact, abs=4 * float(draws.std()) / 300**0.5)


def test_a_decoder_that_is_not_finite_is_refused_with_its_first_bad_row():
    W_dec = torch.randn(20, 6)
    W_dec[[5, 11], 2] = torch.tensor([float("nan"), float("inf")])
    with pytest.raises(ValueError, match="W_dec: row 5 is not finite"):
        OrthogonalityLoss()(W_dec, random_tracker())


@pytest.mark.parametrize("W_dec", [torch.randn(19, 6), torch.ones(20, 6, dtype=torch.int64)])
def test_a_decoder_of_another_kind_is_refused(W_dec):
    with pytest.raises(ValueError, match=r"W_dec: is .* must be a float matrix of 20 rows"):
        OrthogonalityLoss()(W_dec, random_tracker())


def test_activations_must_be_given():
    with pytest.raises(ValueError, match="latents: needed with gram='activations'"):
        OrthogonalityLoss(gram="activations")(torch.randn(20, 6), random_tracker())


@pytest.mark.parametrize(("k", "pairs_from"), [(200, 16), (201, 8)])
def test_tokens_with_very_many_latents_are_sampled_less(k, pairs_from):
    """Unless told otherwise; the draw is then that of the number itself."""
    tracker = CoActivationTracker(2048, window_size=40)
    tracker.update(torch.stack([torch.randperm(2048)[:k] for _ in range(40)]))
    W_dec = torch.randn(2048, 8)
    by_default = OrthogonalityLoss(estimator="sampled")(W_dec, tracker)
    asked = OrthogonalityLoss(estimator="sampled", sample_tokens=pairs_from)(W_dec, tracker)
    assert torch.equal(by_default, asked)


@pytest.mark.parametrize(
    ("options", "of_tracker", "begins"),
    [
        ({"start_tokens": 501}, {}, 501),
        ({"start_tokens": 501, "weighting": "uniform"}, {}, 501),
        ({"weighting": "stable"}, {"totals_from": 401}, 700),
        ({"permuted": "rates"}, {"totals_from": 501}, 600),
        ({}, {"stream": "permuted", "permuted_tokens": 401}, 501),
        (
            {"permuted": "rates"},
            {"stream": "permuted", "permuted_tokens": 401, "totals_from": 501},
            1001,
        ),
    ],
)
def test_a_penalty_that_begins_after_the_end_is_told_of(caplog, options, of_tracker, begins):
    tracker, loss = CoActivationTracker(4, 100, **of_tracker), OrthogonalityLoss(**options)
    for num_tokens in (begins, begins - 1):
        assert not caplog.records
        warn_if_idle(OmegaConf.create({"trainer": {"num_tokens": num_tokens}}), tracker, loss)
    assert f"the penalty begins after {begins:,} tokens, more than" in caplog.text
