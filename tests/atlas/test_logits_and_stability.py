"""Effects on the logits against the model itself, and latents over training and in other SAEs."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from temporal_sae.activations import LanguageModel
from temporal_sae.activations.unembedding import Unembedding
from temporal_sae.atlas import Atlas
from temporal_sae.atlas.__main__ import main
from temporal_sae.atlas.logits import logit_columns
from temporal_sae.errors import RunError
from temporal_sae.experiment import run_experiment
from temporal_sae.sae import TopKSAE, load_sae
from tests.test_cli import small
from tests.test_config_surface import composed

OPTIONS = ("--tokens=1000", "--window-size=500", "--min-count=3")
WIDTH = 7


class Doubles(nn.Module):
    """A norm that stores its gain halved, as some store it less 1."""

    def __init__(self, is_centred):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, WIDTH + 1))
        self.bias = nn.Parameter(torch.ones(WIDTH))
        self.is_centred = is_centred

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True) if self.is_centred else x
        return x / x.pow(2).mean(-1, keepdim=True).add(1e-6).sqrt() * 2 * self.weight + self.bias


class DoublesNorm(Doubles):
    """Known for a norm by its name."""


class Model:
    """The parts of a `LanguageModel` that matter: layers, norm, head."""

    why_no_loss, d_in, n_layers, device = None, WIDTH, 2, torch.device("cpu")

    def __init__(self, norm):
        self.model = nn.Module()
        self.model.embedding = nn.Embedding(5, WIDTH)
        self.model.layers = nn.ModuleList([nn.Identity(), nn.Identity()])
        if norm is not None:
            self.model.norm = norm
        self.model.head = nn.Linear(WIDTH, 5, bias=False)
        self.model.get_input_embeddings = lambda: self.model.embedding
        self.model.get_output_embeddings = lambda: self.model.head


@pytest.mark.parametrize("is_centred", [False, True])
def test_effects_are_those_of_norm_and_head_with_the_division_left_out(is_centred):
    """A direction added to any state, times what the norm divides by."""
    torch.manual_seed(0)
    model = Model(DoublesNorm(is_centred))
    found = Unembedding.of(model)
    assert ("after its mean is subtracted" in found.convention) == is_centred
    directions = torch.randn(3, WIDTH)
    rows = directions - directions.mean(1, keepdim=True) if is_centred else directions
    expected = (rows * 2 * model.model.norm.weight) @ model.model.head.weight.T
    expected -= expected.mean(1, keepdim=True)
    torch.testing.assert_close(found.effects(directions), expected.detach(), rtol=1e-4, atol=1e-4)


def test_a_model_without_a_final_norm_says_so():
    found = Unembedding.of(Model(None))
    assert "no final norm" in found.convention
    assert found.gain.tolist() == [1.0] * WIDTH


def test_the_bundled_model_agrees_with_its_own_forward_pass():
    """A small step along a direction behind the last layer, with the norm's division undone."""
    model = LanguageModel("tiny", "blocks.5.hook_resid_post")
    tokens = torch.arange(5, 9)[None]
    direction = normalize(
        torch.randn(model.d_in, generator=torch.Generator().manual_seed(1)), dim=0
    )
    x = model.activations(tokens)[0, -1]
    along = direction - (direction @ x) * x / (
        x @ x
    )  # the division does not change, to first order
    cap = model.model.config.final_logit_softcapping

    def logits(step):
        capped = model.logits(tokens, lambda hidden: hidden + step * along)[0, -1].double()
        return capped if cap is None else cap * torch.atanh(capped / cap)

    change = (logits(0.5) - logits(-0.5)) * x.pow(2).mean().sqrt()
    change -= change.mean()
    found = Unembedding.of(model).effects(along[None])[0].double()
    assert torch.corrcoef(torch.stack([found, change]))[0, 1] > 0.9999
    assert found.norm() == pytest.approx(change.norm().item(), rel=0.01)


def test_columns_list_the_tokens_with_the_largest_effects():
    torch.manual_seed(0)
    weight = torch.randn(40, 4)
    unembedding = Unembedding(weight, torch.ones(4), False, "")
    W_dec = torch.randn(3, 4)
    columns = logit_columns(W_dec, unembedding, lambda ids: [f"<{i}>" for i in ids])
    effects = (W_dec @ weight.T).numpy()
    effects -= effects.mean(1, keepdims=True)
    for latent, own in enumerate(effects):
        top, bottom = np.argsort(-own)[:10], np.argsort(own)[:10]
        assert columns["top_logit_ids"][latent].tolist() == top.tolist()
        assert columns["bottom_logit_ids"][latent].tolist() == bottom.tolist()
        assert columns["bottom_logit_tokens"][latent] == [f"<{i}>" for i in bottom]
        np.testing.assert_allclose(columns["top_logits"][latent], own[top], rtol=1e-4)
        counts, _ = np.histogram(own, 40)
        assert columns["logit_histogram"][latent].tolist() == counts.tolist()
        np.testing.assert_allclose(columns["logit_range"][latent], [own.min(), own.max()])


@pytest.fixture(scope="module")
def run(random_gemma, tmp_path_factory):
    """A run with snapshots."""
    options = [o for o in small(random_gemma) if not o.startswith("eval.")]
    options.append("trainer.keep_every=1")
    folder = tmp_path_factory.mktemp("kept") / "run"
    run_experiment(composed(*options, "eval=none"), folder, options)
    return folder


def test_the_command_finds_snapshots_and_compares_seeds(run, tmp_path):
    own = normalize(load_sae(run / "sae").weights()["W_dec"]).detach()
    other = TopKSAE(own.shape[1], 3, 2)
    other.W_dec.data[:] = -own[:3]
    other.W_dec.data[1] = own[5]
    other.save(tmp_path / "other")
    main([str(run), *OPTIONS, f"--compare={tmp_path / 'other'}", f"--compare={run}"])
    atlas = Atlas(run / "atlas")
    steps = sorted(int(path.name[5:]) for path in (run / "snapshots").iterdir())
    assert atlas.facts["snapshots"] == steps
    assert atlas.facts["seeds"] == [str(tmp_path / "other"), str(run)]
    cosines = np.array(atlas.latents["snapshot_cosines"].to_pylist())
    for column, step in enumerate(steps):
        folder = run / "snapshots" / f"step_{step:09d}"
        then = normalize(load_sae(folder).weights()["W_dec"]).detach()
        np.testing.assert_allclose(cosines[:, column], (own * then).sum(1), atol=1e-5)
    for row in atlas.overlaps.to_pylist():
        i, j = row["i"], row["j"]
        assert i < j
        for step, cosine in zip(steps, row["snapshot_cosines"], strict=True):
            folder = run / "snapshots" / f"step_{step:09d}"
            then = normalize(load_sae(folder).weights()["W_dec"]).detach()
            assert cosine == pytest.approx((then[i] @ then[j]).item(), abs=1e-5)
    listed = {
        (min(i, j), max(i, j))
        for i, row in enumerate(atlas.latents.to_pylist())
        for name in ("nearest_by_cosine", "nearest_by_phi", "parents", "children", "duplicates")
        for j in row[name]
    }
    assert {(row["i"], row["j"]) for row in atlas.overlaps.to_pylist()} == listed
    latents, best = (
        np.array(atlas.latents[name].to_pylist()) for name in ("seed_latents", "seed_cosines")
    )
    assert latents[5, 0] == 1 and best[5, 0] == pytest.approx(1, abs=1e-5)
    assert latents[:, 1].tolist() == list(range(len(own)))
    np.testing.assert_allclose(best[:, 1], 1, atol=1e-5)
    assert atlas.facts["final_norm"].startswith("decoder row times the gain of the final norm")
    assert atlas.latents["top_logit_tokens"].null_count == 0


def test_an_sae_of_another_width_cannot_be_compared_with(run, tmp_path, capsys):
    TopKSAE(5, 3, 2).save(tmp_path / "other")
    with pytest.raises(SystemExit, match="2"):
        main([str(run), *OPTIONS, f"--compare={tmp_path / 'other'}"])
    assert "other: has d_in=5, not" in capsys.readouterr().err


def test_a_snapshot_of_other_sizes_is_refused(run, tmp_path):
    from temporal_sae.atlas.stability import over_training

    decoder = normalize(torch.randn(4, 5))
    TopKSAE(5, 3, 2).save(tmp_path / "step_000000001")
    with pytest.raises(RunError, match=r"its decoder is \[3, 5\], not \[4, 5\]"):
        over_training(decoder, [tmp_path / "step_000000001"])
