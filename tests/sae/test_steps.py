"""What all architectures must do alike: two ways to compute a step, gradients, inference."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from temporal_sae.loss import reconstruction_loss
from temporal_sae.sae import (
    BatchTopKSAE,
    GatedSAE,
    JumpReLUSAE,
    ListaSAE,
    MatryoshkaSAE,
    StandardSAE,
    StepContext,
    TopKSAE,
)
from temporal_sae.sae.base import TRACKED_LATENTS

WITH_K = ("topk", "batch_topk", "matryoshka", "lista")
WITHOUT_K = ("standard", "standard_free", "jumprelu", "jumprelu_linear", "gated")
ARCHITECTURES = ("topk", "batch_topk", "matryoshka", "lista", "standard", "jumprelu", "gated")
VARIANTS = (*WITH_K, *WITHOUT_K)


def make_sae(name, d_in=8, d_sae=32, k=4, seed=0, **options):
    """An architecture of any size, its random parameters at none of their special values."""
    torch.manual_seed(seed)
    match name:
        case "topk":
            sae = TopKSAE(d_in, d_sae, k, **options)
        case "batch_topk":
            sae = BatchTopKSAE(d_in, d_sae, k, **options)
        case "matryoshka":
            fractions = [1.0] if d_sae < 4 else [0.25, 0.25, 0.5]
            sae = MatryoshkaSAE(d_in, d_sae, k, **{"group_fractions": fractions, **options})
        case "lista":
            fractions = [1.0] if d_sae < 4 else [0.25, 0.25, 0.5]
            own = {"n_corrections": 2, "learn_step_size": True, "group_fractions": fractions}
            sae = ListaSAE(d_in, d_sae, k, **{**own, **options})
        case "standard":
            sae = StandardSAE(d_in, d_sae, 0.3, **options)
        case "standard_free":
            sae = StandardSAE(d_in, d_sae, 0.3, decoder="free", **options)
        case "jumprelu":
            settings = {"l0_target": 3.0, "initial_threshold": 0.3, "bandwidth": 0.4}
            sae = JumpReLUSAE(d_in, d_sae, **{**settings, **options})
        case "jumprelu_linear":
            settings = {"l0_target": None, "l0_weight": 0.1, "bandwidth": 0.6}
            sae = JumpReLUSAE(d_in, d_sae, **{**settings, "initial_threshold": 0.2, **options})
        case "gated":
            sae = GatedSAE(d_in, d_sae, 0.3, **options)
    return sae


def shaken(sae):
    """Nothing is at its initial value any more."""
    with torch.no_grad():
        sae.W_enc.add_(0.2 * torch.randn(sae.W_enc.shape))
        sae.b_enc.copy_(0.2 * torch.randn(sae.d_sae))
        sae.b_dec.copy_(0.5 * torch.randn(sae.d_in))
        if not sae.unit_decoder:
            sae.W_dec.mul_(torch.rand(sae.d_sae, 1) + 0.5)
        if isinstance(sae, JumpReLUSAE):
            sae.threshold.mul_(torch.rand(sae.d_sae) + 0.5)
        if isinstance(sae, GatedSAE):
            sae.r_mag.copy_(0.3 * torch.randn(sae.d_sae))
            sae.b_mag.copy_(0.3 * torch.randn(sae.d_sae))
    return sae


def assert_near(ours, expected, tolerance=2e-5):
    """Equal as far as sums of float32 in another order are."""
    largest = float(expected.detach().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(ours, expected, rtol=10 * tolerance, atol=tolerance * largest + 1e-9)


class Pass(NamedTuple):
    """What a step computes, however it does: all latents as a dense matrix."""

    x_hat: Tensor
    acts: Tensor
    l0: Tensor
    fired: Tensor
    terms: dict[str, Tensor]
    partial: tuple[Tensor, ...] = ()


def step_of(sae, x, context):
    out = sae.training_step(x, context)
    acts = out.latents.to_dense(sae.d_sae)
    return Pass(out.x_hat, acts, out.l0, out.fired, out.terms, out.partial)


def gradients_of(sae, x, result, inactive=False):
    """Of a loss that everything a step hands out goes into."""
    directions = torch.randn(result.acts.shape, generator=torch.Generator().manual_seed(5))
    if not inactive:
        directions = directions * (result.acts > 0)
    loss = (result.acts * directions).sum(-1).mean() + sum(result.terms.values())
    for n, x_hat in enumerate((result.x_hat, *result.partial)):
        loss = loss + reconstruction_loss("fvu", x, x_hat) / (n + 1)
    sae.zero_grad()
    loss.backward(retain_graph=True)
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in sae.named_parameters()
    }


def assert_same(sae, x, ours, expected):
    assert_near(ours.x_hat, expected.x_hat)
    assert_near(ours.acts, expected.acts)
    assert float(ours.l0) == pytest.approx(float(expected.l0), rel=1e-6)
    assert torch.equal(ours.fired, expected.fired)
    assert ours.terms.keys() == expected.terms.keys()
    for name, term in ours.terms.items():
        value = pytest.approx(expected.terms[name].item(), rel=1e-4, abs=1e-6)
        assert term.item() == value, name
    assert len(ours.partial) == len(expected.partial)
    for mine, theirs in zip(ours.partial, expected.partial, strict=True):
        assert_near(mine, theirs)
    gradients = gradients_of(sae, x, ours)
    for name, gradient in gradients_of(sae, x, expected).items():
        # A small gradient is a difference of larger ones.
        largest = max(1e-3, float(gradient.abs().max()))
        torch.testing.assert_close(
            gradients[name], gradient, rtol=1e-3, atol=1e-4 * largest, msg=lambda m, n=name: n + m
        )


# The formulas again, with dense matrices, masks and nothing but autograd.


def by_formula(sae, x, dead=None):
    z = torch.addmm(sae.b_enc, x - sae.b_dec, sae.W_enc)
    x_hat, acts, terms, partial = FORMULAS[type(sae)](sae, x, z)
    if dead is not None and isinstance(sae, TopKSAE | BatchTopKSAE):
        terms["auxk"] = sae.auxk_weight * auxk_by_formula(sae, x, x_hat, dead)
    active = acts > 0
    return Pass(x_hat, acts, active.sum(-1).float().mean(), active.any(0), terms, partial)


def topk_by_formula(sae, x, z):
    kept = torch.zeros_like(z).scatter(1, z.topk(sae.k).indices, 1.0)
    acts = kept * z.relu()
    return acts @ sae.W_dec + sae.b_dec, acts, {}, ()


def batch_topk_by_formula(sae, x, z):
    least = z.detach().flatten().sort(descending=True).values[sae.k * len(x) - 1]
    acts = z.relu() * (z >= least)
    levels = tuple(
        acts[:, :edge] @ sae.W_dec[:edge] + sae.b_dec
        for edge in getattr(sae, "edges", (sae.d_sae,))
    )
    return levels[-1], acts, {}, levels[:-1]


def lista_by_formula(sae, x, z):
    """The answer by the residual of the one before; levels above constant ones."""
    corrections = torch.zeros_like(z)
    for step_size in sae.step_size:
        _, acts, *_ = batch_topk_by_formula(sae, x, z + corrections)
        residual = x - sae.b_dec - acts @ sae.W_dec
        corrections = corrections + step_size * residual @ sae.W_enc
    x_hat, acts, *_ = batch_topk_by_formula(sae, x, z + corrections)
    levels = [sae.b_dec]
    for lo, hi in zip((0, *sae.edges), sae.edges, strict=False):
        below = levels[-1] if lo == 0 else levels[-1].detach()
        levels.append(below + acts[:, lo:hi] @ sae.W_dec[lo:hi])
    return x_hat, acts, {}, tuple(levels[1:-1])


def standard_by_formula(sae, x, z):
    acts = z.relu()
    l1 = sae.l1_weight * (acts @ sae.W_dec.norm(dim=1)).mean()
    return acts @ sae.W_dec + sae.b_dec, acts, {"l1": l1}, ()


def gated_by_formula(sae, x, z):
    projected = (x - sae.b_dec) @ sae.W_enc
    acts = (projected * sae.r_mag.exp() + sae.b_mag).relu() * (z > 0)
    l1 = sae.l1_weight * (z.relu() @ sae.W_dec.norm(dim=1)).mean()
    frozen = z.relu() @ sae.W_dec.detach() + sae.b_dec.detach()
    terms = {"l1": l1, "gate_reconstruction": reconstruction_loss("fvu", x, frozen)}
    return acts @ sae.W_dec + sae.b_dec, acts, terms, ()


def jumprelu_by_formula(sae, x, z):
    """The estimates of arXiv 2407.14435 as slopes of something that is 0 in value."""
    theta, epsilon = sae.threshold, sae.bandwidth
    on = (z > theta).float()
    kernel = ((z > 0) & ((z - theta).abs() < epsilon / 2)).float() / epsilon
    nothing = theta - theta.detach()
    acts = z * on - theta.detach() * kernel * nothing
    l0 = (on - kernel * nothing).sum(-1).mean()
    excess = l0 if sae.l0_target is None else (l0 / sae.l0_target - 1) ** 2
    return acts @ sae.W_dec + sae.b_dec, acts, {"l0": sae.l0_weight * excess}, ()


FORMULAS = {
    TopKSAE: topk_by_formula,
    BatchTopKSAE: batch_topk_by_formula,
    MatryoshkaSAE: batch_topk_by_formula,
    ListaSAE: lista_by_formula,
    StandardSAE: standard_by_formula,
    GatedSAE: gated_by_formula,
    JumpReLUSAE: jumprelu_by_formula,
}


def auxk_by_formula(sae, x, x_hat, dead):
    residual = (x - x_hat).detach()
    z = (x - sae.b_dec).detach() @ sae.W_enc[:, dead] + sae.b_enc[dead]
    k = min(sae.k_aux, z.shape[1])
    acts = torch.zeros_like(z).scatter(1, z.topk(k).indices, 1.0) * z.relu()
    error = (residual - acts @ sae.W_dec[dead]).square().sum(-1).mean()
    spread = (residual - residual.mean(0)).square().sum(-1).mean()
    return error / spread * min(1.0, int(dead.sum()) / sae.k_aux)


# Sparse, dense, and by formula.


@st.composite
def situations(draw):
    """Odd sizes, K near F, few or many tokens, none or most latents dead."""
    d_sae = draw(st.sampled_from([1, 2, 5, 17, 33, 70]))
    k = draw(st.sampled_from(sorted({1, math.ceil(d_sae / 7), max(1, d_sae - 1), d_sae})))
    return {
        "name": draw(st.sampled_from(VARIANTS)),
        "d_in": draw(st.sampled_from([1, 3, 16, 37])),
        "d_sae": d_sae,
        "k": k,
        "tokens": draw(st.sampled_from([2, 9, 65])),
        "dead": draw(st.sampled_from([0.0, 0.3, 1.0])),
        "silent": draw(st.booleans()) and draw(st.booleans()),
        "seed": draw(st.integers(0, 10_000)),
    }


def prepare(name, d_in, d_sae, k, tokens, dead, silent, seed):
    sae = shaken(make_sae(name, d_in, d_sae, k, seed))
    if silent:
        sae.b_enc.data.fill_(-100.0)
    x = torch.randn(tokens, d_in)
    is_dead = torch.rand(d_sae) < dead
    return sae, x, is_dead if bool(is_dead.any()) else None


@given(situations())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_sparse_and_dense_steps_agree(situation):
    sae, x, dead = prepare(**situation)
    sparse, dense = (step_of(sae, x, StepContext(0, dead, way)) for way in (True, False))
    assert_same(sae, x, sparse, dense)


@given(
    situations(), st.sampled_from(["topk", "batch_topk", "matryoshka", "jumprelu"]), st.booleans()
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_screened_and_dense_steps_agree(situation, name, many):
    sizes = {"d_sae": 1300, "k": 20} if many else {}
    sae, x, dead = prepare(**{**situation, "name": name, **sizes})
    screened = step_of(sae, x, StepContext(0, dead, None, True))
    assert_same(sae, x, screened, step_of(sae, x, StepContext(0, dead, False)))


@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka", "jumprelu"])
def test_a_screened_step_says_how_much_of_the_product_it_computed(name):
    sae, x, _ = prepare(name, 64, 4000, 8, 130, 0.0, False, 1)
    if name == "jumprelu":
        sae.threshold.data.fill_(5.0)
    metrics = sae.training_step(x, StepContext(0, None, None, True)).metrics
    assert 0.002 <= metrics["encoder_scored_share"] < 0.02
    assert metrics["encoder_unsettled_share"] == 0
    assert sae.training_step(x, StepContext(0, None, None, False)).metrics == {}
    x = torch.ones(130, 64) * sae.b_dec  # nothing is left of it but the bias
    sae.b_enc.data.fill_(9.0)
    metrics = sae.training_step(x, StepContext(0, None, None, True)).metrics
    assert metrics == {"encoder_scored_share": 1, "encoder_unsettled_share": 1}


@given(situations(), st.sampled_from([True, False, None]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_steps_are_what_the_formulas_say(situation, way):
    sae, x, dead = prepare(**situation)
    assert_same(sae, x, step_of(sae, x, StepContext(0, dead, way)), by_formula(sae, x, dead))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dead", [0.0, 0.3])
def test_the_faster_way_is_chosen_without_changing_anything(name, dead):
    """At this size few latents are active; with the bias raised nearly all of them are."""
    sae, x, dead = prepare(name, 24, 301, 3, 40, dead, False, 7)
    for bias in (-1.0, 2.0):
        sae.b_enc.data.add_(bias)
        ways = [step_of(sae, x, StepContext(0, dead, way)) for way in (None, True, False)]
        for other in ways[1:]:
            assert_same(sae, x, ways[0], other)


@pytest.mark.parametrize("way", [True, False, None])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_silent_batch_is_reconstructed_by_the_bias_alone(name, way):
    sae, x, _ = prepare(name, 6, 20, 3, 10, 0.0, True, 1)
    out = sae.training_step(x, StepContext(0, None, way))
    assert_near(out.x_hat, sae.b_dec.expand(10, 6))
    assert float(out.l0) == 0
    assert not out.fired.any()
    assert (out.latents.indices == -1).all()
    assert (out.latents.values == 0).all()
    gradients = gradients_of(sae, x, step_of(sae, x, StepContext(0, None, way)))
    assert all(torch.isfinite(g).all() for g in gradients.values())
    assert (gradients["W_enc"] == 0).all()
    assert (gradients["W_dec"] == 0).all()
    assert (gradients["b_dec"] != 0).any()


@pytest.mark.parametrize("way", [True, False, None])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_single_token_and_a_single_latent(name, way):
    sae, x, _ = prepare(name, 1, 1, 1, 1, 0.0, False, 3)
    out = sae.training_step(x, StepContext(0, None, way))
    assert out.x_hat.shape == (1, 1)
    assert out.fired.shape == (1,)
    sae.zero_grad()
    out.x_hat.square().sum().backward()
    for p in sae.parameters():
        assert p.grad is None or p.grad.shape == p.shape


@pytest.mark.parametrize("way", [True, False])
@pytest.mark.parametrize("name", WITHOUT_K)
def test_of_very_many_active_latents_the_tracker_gets_the_largest(name, way):
    sae, x = make_sae(name, 4, TRACKED_LATENTS + 88), torch.randn(3, 4)
    for bias in ("b_enc", "b_mag"):
        if hasattr(sae, bias):
            getattr(sae, bias).data.fill_(50.0)
    out = sae.training_step(x, StepContext(0, None, way))
    assert float(out.l0) == TRACKED_LATENTS + 88
    assert out.fired.all()
    acts = sae.encode_dense(x)
    assert_near(out.x_hat, acts @ sae.W_dec + sae.b_dec)
    largest = acts.topk(TRACKED_LATENTS).indices.sort(-1).values
    assert torch.equal(out.latents.indices.sort(-1).values, largest)
    assert_near(out.latents.values, acts.gather(1, out.latents.indices))


@pytest.mark.parametrize("way", [True, False, None])
@pytest.mark.parametrize("name", VARIANTS)
def test_slots_that_are_not_active_are_empty(name, way):
    sae, x, _ = prepare(name, 8, 32, 4, 40, 0.0, False, 3)
    latents = sae.training_step(x, StepContext(0, None, way)).latents
    assert torch.equal(latents.indices == -1, latents.values == 0)


@pytest.mark.parametrize("name", VARIANTS)
def test_both_ways_give_the_same_gradient_through_every_latent_value(name):
    """A penalty on activations has a slope by values that are 0, too."""
    sae, x, _ = prepare(name, 8, 32, 4, 40, 0.0, False, 3)
    ways = [
        gradients_of(sae, x, step_of(sae, x, StepContext(0, None, way)), inactive=True)
        for way in (True, False)
    ]
    for parameter in ways[0]:
        assert_near(ways[0][parameter], ways[1][parameter], 1e-4)


# AuxK.


@pytest.mark.parametrize("way", [True, False, None])
@pytest.mark.parametrize("name", WITH_K)
def test_auxk_reaches_the_encoder_of_dead_latents_only(name, way):
    sae = shaken(make_sae(name, 12, 40, 3))
    dead = torch.arange(40) % 4 == 1
    out = sae.training_step(torch.randn(60, 12), StepContext(0, dead, way))
    sae.zero_grad()
    out.terms["auxk"].backward()
    by_latent = {
        "W_enc": sae.W_enc.grad.abs().sum(0),
        "b_enc": sae.b_enc.grad.abs(),
        "W_dec": sae.W_dec.grad.abs().sum(1),
    }
    for name, gradient in by_latent.items():
        assert (gradient[dead] > 0).all(), name
        assert (gradient[~dead] == 0).all(), name
    assert sae.b_dec.grad is None or (sae.b_dec.grad == 0).all()


@pytest.mark.parametrize("name", WITH_K)
def test_no_auxk_without_dead_latents_or_weight(name):
    x, dead = torch.randn(10, 8), torch.ones(32, dtype=torch.bool)
    assert make_sae(name).training_step(x, StepContext(0)).terms == {}
    unweighted = make_sae(name, auxk_weight=0)
    assert unweighted.training_step(x, StepContext(0, dead)).terms == {}


@pytest.mark.parametrize("name", WITH_K)
def test_a_mask_without_dead_latents_adds_nothing(name):
    """A GPU passes a mask whether or not some latent is dead."""
    sae, x = shaken(make_sae(name)), torch.randn(10, 8)
    context = StepContext(0, torch.zeros(32, dtype=torch.bool))
    out = sae.training_step(x, context)
    assert sum(term.item() for term in out.terms.values()) == 0
    gradients = gradients_of(sae, x, step_of(sae, x, context))
    for name, gradient in gradients_of(sae, x, step_of(sae, x, StepContext(0))).items():
        assert torch.equal(gradients[name], gradient)


# bfloat16.


@pytest.mark.parametrize("way", [True, False, None])
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dead", [0.0, 0.3])
def test_bfloat16_is_near_and_parameters_stay_float32(name, way, dead):
    sae, x, dead = prepare(name, 32, 96, 6, 64, dead, False, 2)
    context = StepContext(0, dead, way)
    exact = step_of(sae, x, context)
    threshold = getattr(sae, "threshold", torch.zeros(1)).clone()
    expected = gradients_of(sae, x, exact)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = step_of(sae, x, context)
        terms = rounded.terms
    gradients = gradients_of(sae, x, rounded)
    everything = [rounded.x_hat, rounded.acts, rounded.l0, *terms.values(), *rounded.partial]
    everything += [*sae.parameters(), *sae.buffers(), *gradients.values()]
    assert {t.dtype for t in everything} == {torch.float32}
    near = 0.15 if name in WITH_K else 0.02  # another latent may be the k-th
    near += 0.2 * (name == "lista")  # three times over
    assert relative(rounded.x_hat, exact.x_hat) < near
    for mine, theirs in zip(rounded.partial, exact.partial, strict=True):
        assert relative(mine, theirs) < near
    assert float(rounded.l0) == pytest.approx(float(exact.l0), rel=0.05)
    for term, value in terms.items():
        assert value.item() == pytest.approx(exact.terms[term].item(), rel=0.05), term
    for parameter, gradient in expected.items():
        assert relative(gradients[parameter], gradient) < 5 * near, parameter
    if hasattr(sae, "threshold"):
        assert relative(sae.threshold, threshold) < 0.05


def relative(ours, expected):
    return ((ours - expected).norm() / expected.norm().clamp(min=1e-9)).item()


@pytest.mark.parametrize("name", VARIANTS)
def test_inference_in_bfloat16(name):
    sae = trained_a_little(name, 32, 96)
    x = torch.randn(20, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        latents = sae.encode(x)
        whole, by_slots = sae(x), sae.decode(latents)
    assert relative(whole.float(), sae(x).detach()) < 0.1
    assert relative(by_slots.float(), sae(x).detach()) < 0.1


# Inference.


def trained_a_little(name, d_in=8, d_sae=32, k=4, seed=0, **options):
    """With a threshold where there is one that steps set."""
    sae = shaken(make_sae(name, d_in, d_sae, k, seed, **options))
    for step in range(3):
        sae.training_step(torch.randn(16, d_in), StepContext(step))
    return sae


@given(
    st.sampled_from(VARIANTS),
    st.sampled_from([1, 2, 9, 40]),
    st.sampled_from([1, 5, 33]),
    st.integers(1, 20),
    st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_inference_is_one_function_in_every_form(name, d_sae, d_in, tokens, seed):
    sae = trained_a_little(name, d_in, d_sae, max(1, d_sae // 4), seed)
    x = torch.randn(tokens, d_in)
    latents, acts = sae.encode(x), sae.encode_dense(x)
    assert_near(latents.to_dense(d_sae), acts)
    assert torch.equal(latents.indices == -1, latents.values == 0)
    assert (acts >= 0).all()
    active = latents.active_indices()
    assert torch.equal(active, latents.indices)
    for row, expected in zip(active, acts, strict=True):
        assert sorted(row[row >= 0].tolist()) == expected.nonzero().flatten().tolist()
    expected = acts @ sae.W_dec + sae.b_dec
    for x_hat in (sae(x), sae.decode(latents), sae.decode_dense(acts)):
        assert_near(x_hat, expected)


@pytest.mark.parametrize("name", ["topk", "standard", "standard_free", "jumprelu", "gated"])
def test_training_computes_what_inference_does(name):
    """Not BatchTopK and its kin, whose batch decides in training."""
    sae = trained_a_little(name)
    x = torch.randn(20, 8)
    for way in (True, False):
        out = sae.training_step(x, StepContext(0, None, way))
        assert_near(out.x_hat, sae(x))
        assert_near(out.latents.to_dense(32), sae.encode_dense(x))


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_of_decode_are_those_of_the_dense_product(name):
    sae = trained_a_little(name)
    x = torch.randn(12, 8)
    both = []
    for decoded in (sae.decode(sae.encode(x)), sae.decode_dense(sae.encode_dense(x))):
        sae.zero_grad()
        decoded.square().sum().backward()
        both.append({n: p.grad for n, p in sae.named_parameters() if p.grad is not None})
    assert both[0].keys() == both[1].keys() >= {"W_enc", "W_dec", "b_dec"}
    for parameter in both[0]:
        assert_near(both[0][parameter], both[1][parameter], 1e-4)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("scale", [0.125, 16.0])
def test_a_power_of_two_as_input_scale_is_folded_to_the_bit(name, scale):
    sae = trained_a_little(name)
    x = torch.randn(40, 8) * scale
    expected, latents = sae(x / scale) * scale, sae.encode(x / scale)
    sae.fold_input_scale(scale)
    assert torch.equal(sae(x), expected)
    folded = sae.encode(x)
    assert torch.equal(folded.indices, latents.indices)
    assert torch.equal(folded.values, latents.values * scale)


@given(st.sampled_from(VARIANTS), st.floats(0.01, 300), st.integers(0, 100))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_input_scale_is_folded(name, scale, seed):
    sae = trained_a_little(name, seed=seed)
    x = torch.randn(10, 8) * scale
    expected, directions = sae(x / scale) * scale, sae.W_dec.clone()
    sae.fold_input_scale(scale)
    assert_near(sae(x), expected, 1e-4)
    assert torch.equal(sae.W_dec, directions)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_starts_tied_with_unit_rows(name):
    sae = make_sae(name)
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert torch.allclose(sae.W_dec.norm(dim=-1), torch.ones(32))
    assert sae.W_enc.T.is_contiguous()
    assert (sae.b_enc == 0).all()
    assert (sae.b_dec == 0).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_state_is_taken_over_to_the_bit(name):
    sae, other = trained_a_little(name), make_sae(name, seed=9)
    other.load_state_dict(sae.state_dict())
    x = torch.randn(10, 8)
    assert torch.equal(other(x), sae(x))
    assert other.W_enc.T.is_contiguous()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_step_leaves_its_input_and_its_parameters_alone(name):
    sae, x = shaken(make_sae(name)), torch.randn(10, 8)
    copy, before = x.clone(), {n: p.clone() for n, p in sae.named_parameters()}
    for way in (True, False):
        sae.training_step(x, StepContext(0, None, way)).x_hat.sum().backward()
    assert torch.equal(x, copy)
    assert all(torch.equal(before[n], p) for n, p in sae.named_parameters())
