"""Constraints on encoder and decoder: they hold after every step, for every architecture."""

import logging

import pytest
import torch
from omegaconf import OmegaConf

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.experiment.build import warn_if_idle
from temporal_sae.loss import ConsistencyLoss, OrthogonalityLoss
from temporal_sae.sae import StandardSAE, TopKSAE, load_sae
from temporal_sae.tracker import NoTracker
from temporal_sae.training.constraints import CONSTRAINTS, make_constraint
from tests.training.test_trainer import (
    ARCHITECTURES,
    D,
    F,
    K,
    Synthetic,
    make_parts,
    make_trainer,
    same,
    weights,
)

PLAIN = OrthogonalityLoss(0.0)


def alignment(sae):
    return (sae.W_enc.detach().T * sae.W_dec.detach()).sum(-1)


class Between(Synthetic):
    """Looks at the SAE between any two steps, and keeps what it begins with."""

    def __init__(self, sae, look):
        super().__init__()
        self.sae, self.look, self.first = sae, look, None

    def __next__(self):
        now = {name: p.detach().clone() for name, p in self.sae.named_parameters()}
        self.first = self.first or now
        self.look(self.first, now)
        return super().__next__()


def is_aligned(first, now):
    dots = (now["W_enc"].T * now["W_dec"]).sum(-1)
    assert torch.allclose(dots, torch.ones(F), atol=1e-5)


def keeps(name):
    def look(first, now):
        assert torch.equal(first[name], now[name])

    return look


def is_near(first, now):
    cosine = torch.nn.functional.cosine_similarity(first["W_dec"], now["W_dec"])
    assert float(cosine.min()) > 0.8 - 1e-5


LOOKS = {
    "aligned": is_aligned,
    "frozen_decoder": keeps("W_dec"),
    "frozen_encoder": keeps("W_enc"),
    "soft_frozen_decoder": is_near,
}


def options_of(name, constraint):
    """Those of an SAE that the constraint allows."""
    sae = ARCHITECTURES[name]()
    if constraint.startswith("frozen"):
        sae.resample_every = None
    return sae


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_holds_between_all_steps_of_every_architecture(tmp_path, name, constraint):
    torch.manual_seed(0)
    sae = options_of(name, constraint)
    batches = Between(sae, LOOKS[constraint])
    parts = make_parts(tmp_path, sae=sae, batches=batches)
    make_trainer(steps=30, constraint=constraint, dead_after_tokens=300).fit(parts)
    now = weights(parts)
    LOOKS[constraint](batches.first, now)
    moved = {n: not torch.equal(batches.first[n], now[n]) for n in ("W_enc", "W_dec", "b_dec")}
    assert moved == {"W_enc": True, "W_dec": True, "b_dec": True} | {
        n: False
        for n in ("W_enc", "W_dec")
        if constraint == f"frozen_{'en' if n == 'W_enc' else 'de'}coder"
    }
    parts.sae.save(tmp_path / "sae")
    again = load_sae(tmp_path / "sae")
    assert torch.equal(again.W_dec, parts.sae.W_dec)
    if constraint == "aligned":
        assert torch.allclose(alignment(again), torch.ones(F), atol=1e-5)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_a_resumed_run_is_one_left_alone(tmp_path, constraint):
    fixed = {"decay_fraction": 0.0, "dead_after_tokens": 1000, "constraint": constraint}

    def trained(folder, steps):
        parts = make_parts(tmp_path / folder)
        make_trainer(steps=steps, **fixed).fit(parts)
        return weights(parts)

    whole = trained("whole", 24)
    trained("parts", 11)
    assert same(trained("parts", 24), whole)


def test_a_soft_frozen_decoder_reaches_its_bound_and_no_further():
    sae = TopKSAE(3, 2, 1)
    sae.W_dec.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    constraint = make_constraint("soft_frozen_decoder")
    constraint.start(sae)
    sae.W_dec.data = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.9, (1 - 0.81) ** 0.5]])
    constraint.after_step(sae)
    # at a right angle: turned to a cosine of .8, at its length; the other is near enough
    expected = torch.tensor([[2.4, 0.0, 1.8], [0.0, 0.9, (1 - 0.81) ** 0.5]])
    torch.testing.assert_close(sae.W_dec.data, expected)


def test_an_aligned_encoder_moves_to_the_nearest_point_and_its_gradient_along_the_decoder_goes():
    sae = TopKSAE(2, 1, 1)
    sae.W_dec.data, sae.W_enc.data = torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0], [5.0]])
    sae.W_enc.grad = torch.tensor([[7.0], [11.0]])
    constraint = make_constraint("aligned")
    constraint.before_step(sae)
    assert sae.W_enc.grad.tolist() == [[0.0], [11.0]]
    constraint.after_step(sae)
    assert sae.W_enc.data.tolist() == [[0.5], [5.0]]


def test_without_a_constraint_encoder_and_decoder_part(tmp_path):
    parts = make_parts(tmp_path, penalty=PLAIN)
    make_trainer(steps=30).fit(parts)
    assert float((alignment(parts.sae) - 1).abs().max()) > 0.05


def test_a_random_decoder_reconstructs_worse_than_a_trained_one(tmp_path):
    explained = {}
    for constraint in (None, "soft_frozen_decoder", "frozen_decoder"):
        parts = make_parts(tmp_path / str(constraint), penalty=PLAIN, tracker=NoTracker(F))
        run = make_trainer(steps=150, constraint=constraint).fit(parts)
        explained[constraint] = run.metrics["explained_variance"]
    assert 0.2 < explained["frozen_decoder"] < explained["soft_frozen_decoder"] < explained[None]


@pytest.mark.parametrize("constraint", ["frozen_decoder", "frozen_encoder"])
def test_latents_that_are_made_anew_move_both_matrices(tmp_path, constraint):
    parts = make_parts(tmp_path, sae=StandardSAE(D, F, resample_every=5))
    with pytest.raises(InvalidOption, match=f"constraint='?{constraint}'?: must be null, aligned"):
        make_trainer(constraint=constraint).fit(parts)


def test_a_run_that_began_without_one_has_no_beginning_to_stay_near(tmp_path):
    make_trainer(steps=7).fit(make_parts(tmp_path))
    parts = make_parts(tmp_path)
    with pytest.raises(RunError, match="does not fit this run"):
        make_trainer(steps=14, constraint="soft_frozen_decoder").fit(parts)


def test_a_penalty_on_a_frozen_decoder_is_said_to_do_nothing(caplog):
    cfg = OmegaConf.create({"trainer": {"num_tokens": 10, "constraint": "frozen_decoder"}})
    with caplog.at_level(logging.WARNING):
        warn_if_idle(cfg, NoTracker(4), ConsistencyLoss())  # acts on latents as well
        warn_if_idle(cfg, NoTracker(4), PLAIN)
        assert not caplog.records
        warn_if_idle(cfg, NoTracker(4), OrthogonalityLoss(weighting="uniform"))
    assert "trainer.constraint=frozen_decoder: no decoder row moves" in caplog.text


def test_only_a_soft_frozen_decoder_takes_memory():
    sae = TopKSAE(D, F, K)
    planned = {name: make_trainer(constraint=name).planned_bytes(sae) for name in CONSTRAINTS}
    assert [name for name, items in planned.items() if items] == ["soft_frozen_decoder"]
    assert planned["soft_frozen_decoder"]["initial decoder"].n_bytes == sae.W_dec.nbytes


def test_a_wrong_one_is_named():
    with pytest.raises(InvalidOption, match="constraint="):
        make_trainer(constraint="tied")
