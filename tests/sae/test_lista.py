"""LISTA: an encoder that corrects its input by the residual, and levels that learn apart."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.sae import ListaSAE, MatryoshkaSAE, StepContext, load_sae
from tests.training.test_trainer import Synthetic, make_parts, make_trainer

WAYS = pytest.mark.parametrize("way", [True, False, None])


def showing(**options):
    """Two rows at an angle: what one explains, the other must not."""
    options = {"n_corrections": 1, "step_size": 0.5, "group_fractions": [0.5, 0.5], **options}
    sae = ListaSAE(2, 2, 2, **options)
    sae.W_dec.data = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    sae.W_enc.data = sae.W_dec.data.T.contiguous().T.contiguous().T
    return sae


@WAYS
def test_a_correction_by_hand(way):
    sae = showing()
    out = sae.training_step(torch.tensor([[1.0, 0.0]]), StepContext(0, None, way))
    # first 1 and .6, which rebuild (1.36, .48); the residual is (-.36, -.48), and with half of it
    # the input is (.82, -.24): .82 and .3
    torch.testing.assert_close(out.latents.to_dense(2), torch.tensor([[0.82, 0.3]]))
    torch.testing.assert_close(out.x_hat, torch.tensor([[0.82 + 0.18, 0.24]]))
    torch.testing.assert_close(sae.threshold, torch.tensor([0.6, 0.3]))


def test_many_corrections_undo_the_overlap_of_rows():
    """The true codes are their fixed point."""
    sae = showing(n_corrections=40)
    codes = torch.tensor([[1.0, 0.0], [0.5, 2.0], [0.0, 1.0]])
    out = sae.training_step(codes @ sae.W_dec.detach(), StepContext(0))
    torch.testing.assert_close(out.latents.to_dense(2), codes, atol=1e-3, rtol=0)
    plain = showing(n_corrections=0).training_step(codes @ sae.W_dec.detach(), StepContext(0))
    assert float((plain.latents.to_dense(2).detach() - codes).abs().max()) > 0.5


@WAYS
def test_without_corrections_it_is_matryoshka_but_for_what_its_levels_learn(way):
    torch.manual_seed(0)
    fractions = [0.25, 0.25, 0.5]
    lista = ListaSAE(6, 20, 3, n_corrections=0, group_fractions=fractions)
    nested = MatryoshkaSAE(6, 20, 3, group_fractions=fractions)
    nested.load_state_dict({n: t for n, t in lista.state_dict().items() if "thr" not in n}, False)
    x = torch.randn(9, 6)
    outs = [sae.training_step(x, StepContext(0, None, way)) for sae in (lista, nested)]
    ours, theirs = ((out.x_hat, *out.partial) for out in outs)
    torch.testing.assert_close(ours, theirs)
    outs[0].partial[1].sum().backward()
    assert float(lista.W_dec.grad[5:10].abs().max()) > 0  # the second level's own
    assert float(lista.W_dec.grad[:5].abs().max()) == 0
    assert float(lista.b_dec.grad.abs().max()) > 0  # through the encoder
    outs[1].partial[1].sum().backward()
    assert float(nested.W_dec.grad[:5].abs().max()) > 0


def test_in_inference_each_answer_has_a_threshold_of_its_own():
    sae = showing()
    sae.threshold.copy_(torch.tensor([0.7, 0.2]))
    # only the first latent answers first: it rebuilds (1, 0) whole, so that nothing is corrected
    x = torch.tensor([[1.0, 0.0]])
    torch.testing.assert_close(sae.encode_dense(x), torch.tensor([[1.0, 0.6]]))
    sae.threshold.copy_(torch.tensor([0.7, 0.65]))
    torch.testing.assert_close(sae.encode_dense(x), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(sae.encode(x).to_dense(2), sae.encode_dense(x))
    assert sae.encode_dense(x[0]).shape == (2,)


def test_after_training_inference_activates_as_many_as_training(tmp_path):
    sae = ListaSAE(8, 32, 4, group_fractions=[0.25, 0.25, 0.5], learn_step_size=True)
    parts = make_parts(tmp_path, sae=sae)
    run = make_trainer(steps=200, log_every=50).fit(parts)
    assert run.metrics["l0"] == pytest.approx(4, abs=0.01)
    assert run.metrics["explained_variance"] > 0.8
    x = torch.cat([next(Synthetic()).x for _ in range(4)])
    assert float(sae.encode(x).l0()) == pytest.approx(4, abs=0.5)
    assert float((sae.step_size - 0.3).abs().max()) > 1e-3  # has learned
    explained = 1 - (x - sae(x)).square().sum() / (x - x.mean(0)).square().sum()
    assert float(explained) > 0.8


def test_a_fixed_step_size_stays(tmp_path):
    sae = ListaSAE(8, 32, 4, n_corrections=2, step_size=0.2)
    make_trainer(steps=10).fit(make_parts(tmp_path, sae=sae))
    assert sae.step_size.tolist() == pytest.approx([0.2, 0.2])


def test_it_takes_the_scale_of_its_input_into_its_weights():
    torch.manual_seed(0)
    sae = ListaSAE(6, 24, 4, n_corrections=2)
    x = torch.randn(50, 6)
    for step in range(5):
        sae.training_step(x / 3, StepContext(step))
    latents, x_hat = sae.encode_dense(x / 3), sae(x / 3)
    sae.fold_input_scale(3.0)
    torch.testing.assert_close(sae.encode_dense(x), 3 * latents)
    torch.testing.assert_close(sae(x), 3 * x_hat)


def saved(folder):
    sae = ListaSAE(4, 24, 2, n_corrections=2, group_fractions=[0.25, 0.75])
    sae.training_step(torch.randn(8, 4), StepContext(0))
    sae.save(folder)
    return sae


def test_it_is_stored_as_what_it_is_and_nobody_takes_it_for_something_else(tmp_path):
    sae, x = saved(tmp_path), torch.randn(9, 4)
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] == "lista"
    again = load_sae(tmp_path)
    assert type(again) is ListaSAE
    assert again.config() == sae.config()
    assert torch.equal(again(x), sae(x))


@pytest.mark.parametrize("name", ["step_size", "step_thresholds"])
def test_a_file_of_another_number_of_corrections_is_refused(tmp_path, name):
    saved(tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    tensors = load_file(path)
    save_file({**tensors, name: tensors[name][:1].clone()}, path)
    with pytest.raises(RunError, match=f"{name}: has shape"):
        load_sae(tmp_path)


def test_every_product_of_a_step_is_planned_for():
    planned = [
        ListaSAE(8, 64, 4, n_corrections=n).planned_bytes(32)["batch"].n_bytes for n in (0, 2)
    ]
    assert planned[1] == 3 * planned[0]


@pytest.mark.parametrize(
    "options",
    [
        {"n_corrections": -1},
        {"step_size": -0.1},
        {"learn_step_size": "no"},
        {"group_fractions": []},
    ],
)
def test_bad_options(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        ListaSAE(4, 24, 4, **options)
