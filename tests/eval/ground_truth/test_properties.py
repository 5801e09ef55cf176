"""Properties of any dictionary, and agreement with other code that measures the same."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from temporal_sae.atlas import statistics
from temporal_sae.eval import GroundTruthEvaluation
from temporal_sae.eval.ground_truth.pairs import average_precision
from temporal_sae.metrics import declared, finite_leaves, fitting
from tests.eval.ground_truth.by_hand import ByHand, dictionary

N, D, F, ROWS = 12, 8, 10, 300


def world(seed):
    """Parents with a child each that comes in half of their rows, and pairs, in superposition."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(ROWS, N, generator=generator)
    parents = {3: 0, 4: 0, 5: 1, 6: 5}
    rates = torch.full((N,), 0.2)
    rates[[*parents]] = 0.5
    values *= torch.rand(ROWS, N, generator=generator) < rates
    for child, parent in parents.items():
        values[:, child] *= values[:, parent] > 0
    directions = torch.randn(N, D, generator=generator)
    directions /= directions.norm(dim=-1, keepdim=True)
    source = ByHand(values, parents, [(7, 8)], [(9, 10)], directions)
    W_dec = directions[:F] + 0.3 * torch.randn(F, D, generator=generator)
    return source, W_dec, 0.2 * torch.randn(F, generator=generator)


def section(sae, source):
    return GroundTruthEvaluation().measure(sae, source)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.permutations(range(F)))
def test_names_of_latents_do_not_matter(seed, order):
    source, W_dec, bias = world(seed)
    before = section(dictionary(W_dec, b_enc=bias), source)["metrics"]
    after = section(dictionary(W_dec[order], b_enc=bias[order]), source)["metrics"]
    assert dict(finite_leaves(after)) == pytest.approx(dict(finite_leaves(before)), 1e-5, 1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_counts_are_those_of_dense_marks(seed):
    """F1, absorption and φ from one matrix of marks for features and one for latents."""
    source, W_dec, bias = world(seed)
    sae = dictionary(W_dec, b_enc=bias)
    found = section(sae, source)
    latent = torch.tensor(found["matches"]["latent"])
    fires = source.values > 0
    all_active = sae.encode(source.values @ source.truth.directions).to_dense(F) > 0
    active = all_active[:, latent.clamp(min=0)] & (latent >= 0)
    both = (fires & active).sum(0)
    f1 = 2 * both / (fires.sum(0) + active.sum(0))
    assert found["metrics"]["f1"] == pytest.approx(float(f1[fires.any(0)].mean()))
    children = {0: [3, 4], 1: [5], 5: [6]}
    shares = []
    for parent, own in children.items():
        rows = sum((fires[:, parent] & fires[:, c]).sum() for c in own)
        silent = fires[:, parent] & ~active[:, parent]
        shares.append(sum((silent & fires[:, c] & active[:, c]).sum() for c in own) / rows)
    assert found["metrics"]["absorption"] == pytest.approx(float(torch.stack(shares).mean()))
    marks = all_active.double().numpy()
    i, j = np.triu_indices(F, 1)
    n = marks.sum(0)
    counts = statistics.Counts.of((marks.T @ marks)[i, j], n[i], n[j], ROWS)
    enough = (n[i] * n[j] >= 10 * ROWS) & (n[i] < ROWS) & (n[j] < ROWS)
    phi = np.abs(statistics.phi(counts))[enough]
    assert found["metrics"]["mean_abs_phi"] == pytest.approx(phi.mean(), abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1))
def test_average_precision_is_that_of_scikit_learn(pairs):
    scores, wanted = (np.array(column) for column in zip(*pairs, strict=True))
    found = average_precision(torch.from_numpy(scores).float(), torch.from_numpy(wanted))
    if wanted.any():
        assert found == pytest.approx(average_precision_score(wanted, scores))
    else:
        assert np.isnan(found)


@pytest.mark.slow
def test_scores_of_latents_are_those_of_synthsaebench():
    evals = pytest.importorskip("sae_lens.synthetic.evals")
    source, W_dec, bias = world(0)
    sae = dictionary(W_dec, b_enc=bias)
    found = section(sae, source)["metrics"]
    directions = source.truth.directions
    acts = sae.encode(source.values @ directions).to_dense(F).detach()
    theirs = evals.compute_classification_metrics(acts, source.values, W_dec, directions)
    assert found["latent_f1"] == pytest.approx(theirs.f1_score)
    assert found["latent_precision"] == pytest.approx(theirs.precision)
    assert found["latent_recall"] == pytest.approx(theirs.recall)
    assert found["uniqueness"] == evals.feature_uniqueness(W_dec, directions)
    assert found["mcc"] == pytest.approx(evals.mean_correlation_coefficient(directions, W_dec))
    shrinkage = evals.ShrinkageCalculator()
    x = source.values @ directions
    shrinkage.add_batch(sae(x), x)
    assert found["shrinkage"]["l2_ratio"] == pytest.approx(shrinkage.compute())


def test_each_score_is_declared():
    source, W_dec, bias = world(0)
    results = {"ground truth results": section(dictionary(W_dec, b_enc=bias), source)}
    names = [name for name, _ in finite_leaves(results["ground truth results"]["metrics"])]
    assert names and all(fitting(name) for name in names)
    values = {m.name: m.of(results) for m in declared()}
    assert values["explained_variance"] is not None and values["fractional_absorption"] is not None
