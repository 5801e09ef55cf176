"""Ablation of a class's latents: what it costs, by hand and on planted classes."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from temporal_sae.errors import InvalidOption
from temporal_sae.eval.tasks.activations import CellActivations, Tokens
from temporal_sae.eval.tasks.downstream import (
    Downstream,
    ablated_cross_entropies,
    active_latents,
    class_latents,
    class_weights,
    cross_entropies,
)
from temporal_sae.eval.tasks.snippets import Snippet, Snippets
from temporal_sae.sae import StandardSAE

N_TOKENS, BOS = 12, 0
KINDS = ("code", "docstring", "comment")


class EchoModel:
    """Predicts the token that it has just read: activation e_t, logits 5 times the activation."""

    device, d_in = torch.device("cpu"), N_TOKENS

    def __init__(self):
        self.tokenizer = SimpleTokenizer()

    def activations(self, tokens):
        return torch.eye(N_TOKENS)[tokens]

    def logits(self, tokens, edit=None):
        x = self.activations(tokens)
        return 5 * (edit(x) if edit else x)

    def plain_pass(self, tokens):
        return self.logits(tokens), partial(self.logits, tokens)


class SimpleTokenizer:
    """The digits of a text, as tokens after BOS; letters count on from nine."""

    bos_token_id, pad_token_id, all_special_ids = BOS, BOS, (BOS,)

    def __call__(self, texts, **_):
        return {"input_ids": [[int(c, N_TOKENS) for c in text] for text in texts]}


def axes_sae(scale=1.0):
    """One latent a token, which reconstructs `scale` of it."""
    sae = StandardSAE(N_TOKENS, N_TOKENS)
    sae.W_enc.data, sae.W_dec.data = scale * torch.eye(N_TOKENS), torch.eye(N_TOKENS)
    sae.b_enc.data.zero_()
    sae.b_dec.data.zero_()
    return sae


def tokens_of(*rows):
    ids = torch.tensor(rows)
    return Tokens(ids, ids != BOS)


# The cross-entropy of a token that is predicted with logit 5, and of one among equals.
SURE, UNSURE = math.log(math.exp(5) + N_TOKENS - 1) - 5, math.log(N_TOKENS)


def test_ablation_by_hand():
    tokens = tokens_of([BOS, 1, 1, 1], [BOS, 2, 2, 2])
    latents = [torch.tensor([1]), torch.tensor([2, 7]), torch.tensor([9])]
    found = ablated_cross_entropies(EchoModel(), axes_sae(), tokens, latents, [1.0] * 3)
    # The first token is predicted from BOS, where e_0 makes all others unlikely.
    first = math.log(math.exp(5) + N_TOKENS - 1)
    clean, ablated = (first + 2 * SURE) / 3, (first + 2 * UNSURE) / 3
    expected = [[clean, ablated, clean, clean], [clean, clean, ablated, clean]]
    assert found.tolist() == [pytest.approx(row, rel=1e-5) for row in expected]


def test_a_silent_latent_costs_exactly_nothing(small_model):
    sae = StandardSAE(16, 64)
    sae.b_enc.data[:5] = -1e6
    ids = torch.randint(2, 2048, (3, 12))
    found = ablated_cross_entropies(
        small_model, sae, Tokens(ids, ids > 1), [torch.arange(5), torch.arange(64)], [1.0, 1.0]
    )
    assert torch.equal(found[:, 0], found[:, 1])
    assert not torch.equal(found[:, 0], found[:, 2])


def test_the_error_of_the_sae_is_kept():
    """With latents that hold 0.6 of the direction, ablation leaves the other 0.4."""
    found = ablated_cross_entropies(
        EchoModel(), axes_sae(0.6), tokens_of([BOS, 3, 3]), [torch.tensor([3])], [1.0]
    )
    first = math.log(math.exp(5) + N_TOKENS - 1)
    left = math.log(math.exp(2) + N_TOKENS - 1) - 2
    assert float(found[0, 1]) == pytest.approx((first + left) / 2, rel=1e-5)


def test_special_tokens_are_left_alone():
    found = ablated_cross_entropies(
        EchoModel(), axes_sae(), tokens_of([BOS, 4]), [torch.tensor([BOS])], [1.0]
    )
    assert torch.equal(found[:, 0], found[:, 1])


def test_cross_entropy_is_that_of_transformers(small_model):
    ids = torch.randint(2, 2048, (1, 20))
    expected = small_model.model(input_ids=ids, labels=ids).loss
    found = cross_entropies(small_model.logits(ids), Tokens(ids, ids > 1))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    padded = torch.cat([ids, torch.zeros(1, 7, dtype=torch.int64)], dim=1)
    again = cross_entropies(small_model.logits(padded), Tokens(padded, padded > 1))
    assert float(again) == pytest.approx(float(expected), rel=1e-5)


def test_latents_of_a_class():
    means = torch.tensor([[3.0, 1.0, 0.0, 5.0], [1.0, 2.0, 0.0, 5.0], [0.0, 0.0, 1.0, 5.0]])
    labels = torch.tensor([0, 0, 1])
    first, second = class_latents(means, labels, 2)
    assert first.tolist() == [0, 1]
    assert second[0] == 2
    control = active_latents(means, labels, [first, second[:1]], seed=0)
    assert [own.tolist() for own in control] == [[3], [3]]
    many = torch.rand(6, 50)
    chosen = class_latents(many, torch.arange(6) % 2, 10)
    drawn = active_latents(many, torch.arange(6) % 2, chosen, seed=0)
    assert [len(own) for own in drawn] == [10, 10]
    assert not set(drawn[0].tolist()) & set(chosen[0].tolist())
    again = active_latents(many, torch.arange(6) % 2, chosen, seed=0)
    assert torch.equal(drawn[0], again[0])


def test_weights_make_means_of_means():
    labels = np.array([0, 0, 0, 1])
    own, others = class_weights(labels)
    values = np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]])
    assert (own * values).sum() == pytest.approx((2.0 + 8.0) / 2)
    assert (others * values).sum() == pytest.approx((4.0 + 6.0) / 2)


def library(n=6):
    """Two packages; the code is made of 1 and 2, docstrings of 3 and 4, comments of 3 and 5."""
    texts = {"code": "111222", "docstring": "333444", "comment": "333555"}
    cells = {
        (side, (package, kind)): tuple(
            Snippet(texts[kind] * (1 + i % 3), package, kind, "f.py", i) for i in range(n)
        )
        for side in ("train", "test")
        for package in ("a", "b")
        for kind in KINDS
    }
    return Snippets(("a", "b"), cells)


def run(task, sae, snippets=None):
    source = SimpleNamespace(language_model=EchoModel(), context_size=128, prepend_bos=True)
    activations = CellActivations(snippets or library(), sae, source, 4)
    return task.run(activations)


def test_a_class_that_hangs_on_its_latents():
    task = Downstream(n_latents=1, train_rows=6, test_rows=5, batch_texts=2, n_resamples=200)
    found = run(task, axes_sae())
    classes = {c["class"]: c for c in found["details"]["classes"]}
    assert classes["code"]["latents"][0] in (1, 2)
    assert classes["docstring"]["latents"] == [4]
    assert classes["comment"]["latents"] == [5]
    increase = classes["docstring"]["ce_increase"]
    assert increase["docstring"] > 0.5
    assert increase["code"] == increase["comment"] == 0.0
    scores, intervals = found["scores"], found["intervals"]
    own = [c["ce_increase"][kind] for kind, c in classes.items()]
    assert scores["downstream_ce_increase"] == pytest.approx(np.mean(own))
    assert scores["downstream_ce_increase_others"] == 0.0
    assert scores["downstream_selectivity"] == pytest.approx(np.mean(own))
    for name in Downstream.metric_names:
        low, high = intervals[name]
        assert low <= scores[name] + 1e-12
        assert scores[name] <= high + 1e-12
    assert intervals["downstream_selectivity"][0] > 0
    again = run(task, axes_sae())
    assert again["scores"] == scores
    assert again["intervals"] == intervals


def test_latents_that_two_classes_share_are_less_selective():
    """Token 3 stands in docstrings and comments: with two latents it is ablated for both."""
    one = run(Downstream(n_latents=1, train_rows=6, test_rows=5), axes_sae())["scores"]
    two = run(Downstream(n_latents=2, train_rows=6, test_rows=5), axes_sae())["scores"]
    assert two["downstream_ce_increase"] > one["downstream_ce_increase"]
    assert two["downstream_ce_increase_others"] > 0


def test_an_sae_of_zeros_costs_nothing():
    sae = axes_sae()
    sae.b_enc.data.fill_(-10.0)
    found = run(Downstream(n_latents=2, train_rows=6, test_rows=5), sae)
    assert set(found["scores"].values()) == {0.0}
    assert set(found["intervals"].values()) == {(0.0, 0.0)}


def test_checked_before_any_work():
    with pytest.raises(InvalidOption, match="n_latents=10: must be at most"):
        Downstream(train_rows=6, test_rows=6).check(library(), 8)
    with pytest.raises(InvalidOption, match=r"test_rows=7.* has 6"):
        Downstream(train_rows=6, test_rows=7).check(library(), 100)
    Downstream(train_rows=6, test_rows=6).check(library(), 100)
    with pytest.raises(InvalidOption, match="n_latents"):
        Downstream(n_latents=0)
