"""Rows, probes and accuracies, by hand and by what others compute."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from temporal_sae.eval.tasks.effects import (
    class_effects,
    logits_without,
    removal_effects,
    strongest,
)
from temporal_sae.eval.tasks.probes import (
    LinearProbe,
    Rows,
    logistic_regression,
    most_different,
    one_against_other,
    one_against_rest,
    plan_probe,
    train_probes,
)
from temporal_sae.eval.tasks.verdicts import Verdicts, row_counts, score_intervals
from temporal_sae.sae import StandardSAE, TopKSAE


def seeded_generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.lists(st.integers(3, 20), min_size=2, max_size=5), st.integers(0, 9), st.integers(0, 4))
def test_one_against_rest_is_balanced(sizes, seed, positive):
    positive %= len(sizes)
    classes = torch.arange(sum(sizes)).split(sizes)
    rows = one_against_rest(classes, positive, seeded_generator(seed))
    assert sorted(rows.numbers[rows.labels == 1].tolist()) == classes[positive].tolist()
    negative = rows.numbers[rows.labels == 0].tolist()
    assert len(negative) == len(set(negative)) <= sizes[positive]
    assert not set(negative) & set(classes[positive].tolist())
    if min(sizes) >= max(sizes) / (len(sizes) - 1) + 1:
        assert len(negative) == sizes[positive]
        each = [len(set(negative) & set(c.tolist())) for c in classes]
        del each[positive]
        assert max(each) <= -(-sizes[positive] // len(each))


def test_one_against_other_takes_all():
    rows = one_against_other(torch.tensor([5, 6]), torch.tensor([1, 2]), seeded_generator())
    assert sorted(zip(rows.numbers.tolist(), rows.labels.tolist(), strict=True)) == [
        *[(1, 0), (2, 0), (5, 1), (6, 1)]
    ]


def test_most_different_by_hand():
    features = torch.tensor([[1.0, 0, 5, 0], [3, 0, 5, -9], [0, 1, 5, 0], [0, 0, 5, 0]])
    labels = torch.tensor([1, 1, 0, 0])
    assert most_different(features, labels, 1).tolist() == [3]
    assert most_different(features, labels, 2).tolist() == [0, 3]
    assert most_different(features, labels, 9).tolist() == [0, 1, 2, 3]


def test_logistic_regression_is_at_its_minimum():
    torch.manual_seed(0)
    x, labels = torch.randn(60, 3), torch.arange(60) % 2
    x[:, 0] += labels
    probe = logistic_regression(x, labels)
    w = torch.tensor(probe.coef_[0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor(probe.intercept_[0], dtype=torch.float64)
    losses = nn.functional.binary_cross_entropy_with_logits(
        x.double() @ w + b, labels.double(), reduction="sum"
    )
    (losses + 0.5 * w.square().sum()).backward()  # C = 1
    assert w.grad.abs().max() < 1e-2


def rows_of(labels):
    return Rows(torch.arange(len(labels)), labels)


def slow_probe(x, labels, x_test, test_labels, generator):
    """One probe, step by step with torch's own parts."""
    probe = nn.Linear(x.shape[1], 1)
    bound = x.shape[1] ** -0.5
    nn.init.uniform_(probe.weight, -bound, bound, generator=generator)
    nn.init.uniform_(probe.bias, -bound, bound, generator=generator)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-3)
    best, kept = -1.0, None
    for _ in range(20):
        for batch in torch.randperm(len(x), generator=generator).split(16):
            logits = probe(x[batch])[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[batch].float())
            loss = loss + 1e-3 * probe.weight.abs().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy = float(((probe(x_test)[:, 0] > 0) == (test_labels == 1)).float().mean())
        if accuracy > best:
            best, kept = accuracy, (probe.weight[0].detach().clone(), probe.bias[0].item())
    return kept


def test_probes_trained_side_by_side_are_those_trained_alone():
    torch.manual_seed(3)
    x, x_test, labels = torch.randn(70, 5), torch.randn(30, 5), torch.arange(70) % 2
    x[:, 1] += labels
    plans = [
        plan_probe(rows_of(own), rows_of(own[:30]), 5, seeded_generator(seed))
        for seed, own in enumerate((labels, 1 - labels, labels.flip(0)))
    ]
    for seed, (plan, probe) in enumerate(zip(plans, train_probes(plans, x, x_test), strict=True)):
        own, tested = plan.learned.labels, plan.tested.labels
        weight, bias = slow_probe(x, own, x_test, tested, seeded_generator(seed))
        assert torch.allclose(probe.weight, weight, atol=1e-5)
        assert float(probe.bias) == pytest.approx(bias, abs=1e-5)


def test_gradients_stay_off_outside():
    x = torch.randn(20, 3)
    with torch.no_grad():
        plan = plan_probe(
            rows_of(torch.arange(20) % 2), rows_of(torch.arange(20) % 2), 3, seeded_generator()
        )
        probe = train_probes([plan], x, x)[0]
    assert not probe.weight.requires_grad


def test_effects_by_hand():
    f = torch.tensor([[2.0, 0, 1], [4, 0, 1], [1, 5, 1], [1, 1, 1]])
    rows = Rows(torch.tensor([0, 1, 2, 3]), torch.tensor([1, 1, 0, 0]))
    W_dec = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    probe = LinearProbe(torch.tensor([3.0, -1.0]), torch.tensor(0.0))
    # Mean differences 2, -3, 0; probe on the decoder rows 3, -1, 2.
    assert removal_effects(f, rows, probe, W_dec).tolist() == [6, 3, 0]
    assert class_effects(f, rows, probe, W_dec).tolist() == [6, 0, 0]
    assert strongest(torch.tensor([6.0, 3, 0]), 1).tolist() == [0]
    assert strongest(torch.tensor([6.0, 3, 0]), 3).tolist() == [0, 1]
    assert strongest(torch.zeros(3), 2).tolist() == []


@pytest.mark.parametrize("make", [partial(TopKSAE, k=5), StandardSAE])
def test_ablation_of_means_is_ablation_of_tokens(make):
    sae = make(8, 40)  # here, where the seed is set
    sae.b_dec.data.normal_()
    x = torch.randn(6, 9, 8)
    probe = LinearProbe(torch.randn(8), torch.tensor(0.3))
    ablated = torch.tensor([3, 17, 30])
    with torch.no_grad():
        dense = sae.encode_dense(x.flatten(0, 1))
        error = x.flatten(0, 1) - sae.decode_dense(dense)
        without = dense.clone()
        without[:, ablated] = 0
        changed = (sae.decode_dense(without) + error).unflatten(0, (6, 9)).mean(1)
        f = dense.unflatten(0, (6, 9)).mean(1)
        logits = logits_without(ablated, x.mean(1), f, probe, sae.W_dec)
        assert torch.allclose(logits, probe.logits(changed), atol=1e-5)
        assert not torch.allclose(logits, probe.logits(x.mean(1)), atol=1e-2)


def test_accuracies_by_hand():
    right = np.array([[1, 0], [1, 1], [0, 1], [1, 1]], dtype=bool)
    tested = np.array([[1, 0], [1, 1], [1, 1], [0, 1]], dtype=bool)
    verdicts = Verdicts(right, tested)
    assert verdicts.accuracies().tolist() == pytest.approx([2 / 3, 1])
    counts = row_counts(np.array([[0, 0, 2, 3], [3, 3, 3, 3]]))
    assert counts.tolist() == [[2, 0, 1, 1], [0, 0, 0, 4]]
    assert verdicts.accuracies(counts).tolist() == [pytest.approx([2 / 3, 1]), [0, 1]]


def test_intervals_hold_the_accuracy_and_stay_within_cells():
    rng = np.random.default_rng(0)
    right = rng.random((200, 1)) < np.repeat([0.6, 0.9], 100)[:, None]
    verdicts = Verdicts(right, np.ones_like(right))
    cells = np.arange(200) // 100

    def mean(counts):
        assert (counts.reshape(-1, 2, 100).sum(-1) == 100).all()
        return verdicts.accuracies(counts)

    low, high = score_intervals(["a"], mean, cells, 0, 500)["a"]
    a, b = right[:100].mean(), right[100:].mean()
    spread = 1.96 * np.sqrt((a * (1 - a) + b * (1 - b)) / 100) / 2
    assert low == pytest.approx((a + b) / 2 - spread, abs=0.015)
    assert high == pytest.approx((a + b) / 2 + spread, abs=0.015)
