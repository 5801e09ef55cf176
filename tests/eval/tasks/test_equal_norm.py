"""Ablations that take equally much away: by hand, and whatever the size of the latents."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from temporal_sae.eval.tasks.activations import Tokens
from temporal_sae.eval.tasks.downstream import Downstream
from temporal_sae.eval.tasks.equal_norm import equal_norm_factor, token_factors
from temporal_sae.eval.tasks.scr import SpuriousCorrelationRemoval
from temporal_sae.eval.tasks.tpp import TargetedProbePerturbation
from tests.eval.tasks.test_downstream import BOS, EchoModel, axes_sae, run

TPP = TargetedProbePerturbation(n_values=[1, 2], train_rows=60, test_rows=40, n_resamples=20)
SCR = SpuriousCorrelationRemoval(n_values=[1, 4], train_rows=60, test_rows=40, n_resamples=20)


def test_the_factor_by_hand():
    """Rows 10 ± 3 deviate by 3, half of which is 1.5; what is removed is 6 in the mean square."""
    x = torch.tensor([[13.0], [7.0]])
    removed = torch.tensor([[6 * 2**0.5], [0.0]])
    assert equal_norm_factor(removed, x, 0.5) == pytest.approx(0.25)
    assert equal_norm_factor(0 * removed, x, 0.5) == 0


@given(st.floats(0.1, 10), st.floats(0.01, 2), st.integers(0, 100))
def test_it_undoes_the_size_and_ignores_an_offset(larger, share, seed):
    generator = torch.Generator().manual_seed(seed)
    x, removed = torch.randn(2, 9, 4, generator=generator)
    factor = equal_norm_factor(removed, x, share)
    assert equal_norm_factor(larger * removed, x, share) == pytest.approx(factor / larger, rel=1e-5)
    assert equal_norm_factor(removed, x + 50, share) == pytest.approx(factor, rel=1e-3)
    taken = (factor * removed).pow(2).sum(1).mean().sqrt()
    assert taken == pytest.approx(share * (x - x.mean(0)).pow(2).sum(1).mean().sqrt(), rel=1e-4)


@pytest.mark.parametrize("task", [TPP, SCR], ids=["tpp", "scr"])
def test_latents_that_are_larger_change_the_raw_scores_alone(task, planted):
    as_it_is, larger = (task.run(planted(larger=a))["scores"] for a in (1.0, 1.7))
    equal = [name for name in as_it_is if "equal_norm" in name]
    raw = [name.replace("equal_norm_", "") for name in equal]
    assert sorted(equal + raw) == sorted(as_it_is)
    assert [larger[name] for name in equal] == pytest.approx([as_it_is[n] for n in equal], abs=1e-6)
    assert [larger[name] for name in raw] != pytest.approx([as_it_is[n] for n in raw], abs=1e-3)


def test_the_factors_of_tokens_are_those_of_all_batches_together():
    sae, model = axes_sae().requires_grad_(False), EchoModel()
    batches = [Tokens(ids, ids != BOS) for ids in torch.tensor([[[BOS, 1, 2]], [[BOS, 3, 3]]])]
    rows = torch.cat([model.activations(b.ids)[b.counted] for b in batches])
    sets = [torch.tensor([3]), torch.tensor([1, 2]), torch.tensor([9])]
    expected = [
        equal_norm_factor(sae.encode_dense(rows)[:, own] @ sae.W_dec[own], rows, 0.3)
        for own in sets
    ]
    assert token_factors(model, sae, batches, sets, 0.3) == pytest.approx(expected)
    assert expected[2] == 0


def test_the_loss_of_the_language_model_at_equal_norm():
    """Latents of .6 leave .4 of a direction; scaled, they take as much as whole ones do."""
    task = Downstream(n_latents=1, train_rows=6, test_rows=5, batch_texts=2, equal_norm=1.0)
    whole, part = (run(task, axes_sae(*size))["scores"] for size in ((), (0.6,)))
    assert part["downstream_selectivity"] < 0.9 * whole["downstream_selectivity"]
    name = "downstream_equal_norm_selectivity"
    assert part[name] == pytest.approx(whole[name], rel=1e-4)
    assert whole[name] > 0
