"""Matryoshka: nested dictionaries, each reconstructing, on top of BatchTopK."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.errors import InvalidOption
from temporal_sae.loss import reconstruction_loss
from temporal_sae.sae import BatchTopKSAE, MatryoshkaSAE, StepContext, load_sae
from tests.training.test_trainer import make_parts, make_trainer

WAYS = pytest.mark.parametrize("way", [True, False, None])


def showing(k=3):
    """Pre-activations (x, 2x, 3x); rows (1, 0), (0, 1) and (1, 1)."""
    sae = MatryoshkaSAE(1, 3, k, group_fractions=[1 / 3, 1 / 3, 1 / 3])
    sae.W_enc.data = torch.tensor([[1.0, 2.0, 3.0]])
    sae.W_dec.data = torch.tensor([[1.0], [10.0], [100.0]])
    return sae


@WAYS
def test_every_level_is_what_its_first_latents_rebuild(way):
    sae = showing()
    sae.b_dec.data.fill_(0.0)
    out = sae.training_step(torch.tensor([[2.0], [-1.0]]), StepContext(0, None, way))
    assert [level.tolist() for level in out.partial] == [[[2], [0]], [[42], [0]]]
    assert out.x_hat.tolist() == [[642], [0]]


@WAYS
def test_the_bias_is_part_of_every_level_and_selection_is_of_the_whole(way):
    sae = showing(k=1)
    sae.b_dec.data.fill_(1.0)
    out = sae.training_step(torch.tensor([[3.0]]), StepContext(0, None, way))  # 2, 4, 6
    assert [level.item() for level in (*out.partial, out.x_hat)] == [1, 1, 601]


@WAYS
def test_a_latent_learns_from_every_level_that_it_is_part_of(way):
    sae = showing()
    out = sae.training_step(torch.tensor([[2.0]]), StepContext(0, None, way))
    # slopes 1, 2 and 4 by the three levels: the first latent is in all, the last in one
    (out.partial[0] + 2 * out.partial[1] + 4 * out.x_hat).sum().backward()
    assert sae.W_dec.grad.flatten().tolist() == [2 * 7, 4 * 6, 6 * 4]
    assert sae.b_enc.grad.tolist() == [7 * 1, 6 * 10, 4 * 100]
    assert sae.W_enc.grad.tolist() == [[2 * 7, 2 * 60, 2 * 400]]
    assert sae.b_dec.grad.tolist() == [7 - (1 * 7 + 2 * 60 + 3 * 400)]


@WAYS
def test_a_level_that_nothing_depends_on_has_no_gradient(way):
    """Autograd then passes zeros or nothing for it."""
    sae = showing()
    out = sae.training_step(torch.tensor([[2.0]]), StepContext(0, None, way))
    out.partial[0].sum().backward()
    assert sae.W_dec.grad.flatten().tolist() == [2, 0, 0]


def test_the_loss_of_a_run_is_the_mean_of_the_levels(tmp_path):
    sae = MatryoshkaSAE(8, 32, 4, group_fractions=[0.125, 0.125, 0.25, 0.5], auxk_weight=0)
    parts = make_parts(tmp_path, sae=sae)
    x = parts.batches.sample(64)
    options = {"b_dec_init": "mean", "encoder_init": "tied"}
    run = make_trainer(steps=1, warmup_steps=0, log_every=1, **options)
    fresh = MatryoshkaSAE(8, 32, 4, group_fractions=[0.125, 0.125, 0.25, 0.5])
    fresh.load_state_dict(sae.state_dict())
    fresh.b_dec.data.copy_(x.mean(0))
    logged = run.fit(parts).metrics["loss_reconstruction"]
    out = fresh.training_step(x, StepContext(0))
    levels = [reconstruction_loss("fvu", x, level) for level in (*out.partial, out.x_hat)]
    assert len(levels) == 4
    assert logged == pytest.approx(sum(levels).item() / 4, rel=1e-5)


def test_with_a_single_group_it_is_batch_topk():
    torch.manual_seed(0)
    plain, nested = BatchTopKSAE(6, 20, 3), MatryoshkaSAE(6, 20, 3, group_fractions=[1.0])
    nested.load_state_dict(plain.state_dict())
    x = torch.randn(9, 6)
    outs = [sae.training_step(x, StepContext(0)) for sae in (plain, nested)]
    assert torch.equal(outs[0].x_hat, outs[1].x_hat)
    assert outs[1].partial == ()
    assert torch.equal(plain.threshold, nested.threshold)
    assert torch.equal(plain(x), nested(x))


def test_edges_of_the_published_fractions():
    assert MatryoshkaSAE(4, 4096, 4).edges == (128, 384, 896, 1920, 4096)
    assert MatryoshkaSAE(4, 64, 4).edges == (2, 6, 14, 30, 64)


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=6),
    st.integers(1, 400),
    st.floats(-9e-7, 9e-7),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_groups_cover_all_latents(parts, d_sae, off):
    """Also where the fractions do not quite sum to 1."""
    fractions = [part / sum(parts) for part in parts]
    fractions[-1] += off
    try:
        edges = MatryoshkaSAE(1, d_sae, 1, group_fractions=fractions).edges
    except InvalidOption as error:
        assert error.option == "group_fractions"
        assert min(parts) / sum(parts) * d_sae < 1.5
        return
    assert edges[-1] == d_sae
    assert all(lo < hi for lo, hi in zip((0, *edges), edges, strict=False))


@pytest.mark.parametrize("off", [-9e-7, 9e-7])
def test_a_million_latents_are_all_in_some_group(off):
    """Fractions need to sum to 1 within 1e-6 only, which is a latent of a million."""
    sae = MatryoshkaSAE(1, 2**20, 1, group_fractions=[0.5, 0.5 + off])
    assert sae.edges[-1] == 2**20


@pytest.mark.parametrize("fractions", [[0.5, 0.5], [0.25, 0.75], [1.0]])
@pytest.mark.parametrize("d_sae", [4, 8, 64])
def test_a_saved_one_can_be_loaded(fractions, d_sae, tmp_path):
    sae = MatryoshkaSAE(4, d_sae, 2, group_fractions=fractions)
    for step in range(3):
        sae.training_step(torch.randn(8, 4), StepContext(step))
    sae.save(tmp_path)
    x = torch.randn(9, 4)
    again = load_sae(tmp_path)
    assert type(again) is MatryoshkaSAE
    assert torch.equal(again(x), sae(x))
    assert again.config() == sae.config()


@pytest.mark.parametrize(
    "fractions",
    [
        [0.5, 0.4],
        [0.5, 0.6],
        [0.5, 0.5, 0.0],
        [1.5, -0.5],
        [],
        [0.999, 0.001],
        ["half", 0.5],
        [float("nan"), 1.0],
        0.5,
        None,
    ],
)
def test_bad_fractions(fractions):
    with pytest.raises(InvalidOption) as raised:
        MatryoshkaSAE(4, 24, 4, group_fractions=fractions)
    assert raised.value.option == "group_fractions"


@pytest.mark.parametrize(
    "options", [{"k": 25}, {"k_aux": 0}, {"threshold_beta": 2}, {"threshold_start_step": -1}]
)
def test_other_bad_options(options):
    with pytest.raises(InvalidOption) as raised:
        MatryoshkaSAE(**{"d_in": 4, "d_sae": 24, "k": 4, "group_fractions": [1.0], **options})
    assert raised.value.option == next(iter(options))
