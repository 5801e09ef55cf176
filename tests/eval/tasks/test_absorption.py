"""Absorption: the criteria by hand, the probes by their conditions, the task on planted words."""

from string import ascii_lowercase
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import AutoTokenizer

from temporal_sae.activations import LanguageModel
from temporal_sae.assets import TINY_MODEL
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval.tasks.absorbed import absorption_by_concept, absorption_of_words
from temporal_sae.eval.tasks.absorption import ENOUGH_LETTERS, Absorption
from temporal_sae.eval.tasks.absorption_probes import (
    LinearProbes,
    f1_scores,
    main_latents,
    sparse_weights,
    true_probes,
)
from temporal_sae.eval.tasks.words import concepts_of
from temporal_sae.sae import StandardSAE

PROBE = torch.tensor([2.0, 0.0])  # its length does not matter


def rows(*cosines):
    """Decoder rows of unit length with these cosines to the probe."""
    c = torch.tensor(cosines)
    return torch.stack([c, (1 - c**2).sqrt()], dim=1)


def one_word(total, acts, cosines, main=(0,)):
    """(full, fraction) of a word whose projection on the probe is `total`."""
    x, f = torch.tensor([[total, 0.3]]), torch.tensor([acts])
    found = absorption_of_words(x, f, PROBE, rows(*cosines), main)
    return bool(found.full), pytest.approx(float(found.fraction), abs=1e-6)


@pytest.mark.parametrize(
    ("total", "acts", "cosines", "full"),
    [
        (1.0, [0.0, 1.0], [1.0, 0.5], True),
        (1.0, [1e-7, 1.0], [1.0, 0.5], False),  # the main latent is not silent
        (1.0, [1e-9, 1.0], [1.0, 0.5], True),
        (1.0, [0.0, 20.0], [1.0, 0.0255], True),  # the cosine is at least 0.025
        (1.0, [0.0, 20.0], [1.0, 0.0245], False),
        (1.0, [0.0, 0.81], [1.0, 0.5], True),  # the share is at least 0.4
        (1.0, [0.0, 0.79], [1.0, 0.5], False),
        (-1.0, [0.0, 1.0], [1.0, 0.5], False),  # the probe's direction is not in the word
        (0.0, [0.0, 1.0], [1.0, 0.5], False),
        (1.0, [0.0, 0.0], [1.0, 0.5], False),
        (1.0, [0.0, 0.3, 0.3], [1.0, 0.9, 0.9], False),  # only a single latent absorbs fully
    ],
)
def test_full_absorption(total, acts, cosines, full):
    assert one_word(total, acts, cosines)[0] == full


@pytest.mark.parametrize(
    ("acts", "cosines", "fraction"),
    [
        ([0.0, 1.0], [1.0, 0.5], 1.0),  # the main latent is silent
        ([0.0, 10.0], [1.0, 0.09], 0.0),  # cosine below 0.1
        ([0.0, 10.0], [1.0, 0.11], 1.0),
        ([0.2, 0.81], [1.0, 0.5], 0.405 / 0.605),  # share just above 0.4
        ([0.2, 0.79], [1.0, 0.5], 0.0),  # just below
        ([0.6, 1.0], [1.0, 0.5], 0.4 / 1.0),  # no more than the main one has left
        ([1.01, 1.0], [1.0, 0.5], 0.0),  # the main one has it all
        ([1.0, 1.0], [-0.1, 0.5], 1.0),  # the main one points away
        ([0.2, 0.3, 0.25, 0.2, 0.15], [1.0] * 5, 0.75 / 0.95),  # three absorbers at most
        ([0.2, 0.5, 1.0], [1.0, 1.0, -0.5], 0.5 / 0.7),  # negative projections do not count
    ],
)
def test_absorbed_fraction(acts, cosines, fraction):
    assert one_word(1.0, acts, cosines)[1] == fraction


def test_several_main_latents_and_words_at_once():
    W_dec, acts = (
        rows(1.0, 0.9, 0.5),
        torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.1, 1.0], [0.1, 0.1, 1.0]]),
    )
    x = torch.tensor([[1.0, 0.0]]).repeat(3, 1)
    found = absorption_of_words(x, acts, PROBE, W_dec, main=[1, 0])
    assert found.full.tolist() == [True, False, False]
    assert found.top.tolist() == [2, 2, 2]
    assert found.fraction.tolist() == pytest.approx([1.0, 0.5 / 0.59, 0.5 / 0.69], abs=1e-6)
    without = absorption_of_words(x, acts, PROBE, W_dec, main=[])
    assert without.full.all()
    none = absorption_of_words(x[:0], acts[:0], PROBE, W_dec, main=[0])
    assert [len(part) for part in none] == [0, 0, 0]


def test_only_words_that_the_probe_finds_are_looked_at():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    labels = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]).bool()
    probes = LinearProbes(torch.eye(2), torch.tensor([0.0, -0.5]))
    acts = torch.ones(4, 2)
    found = absorption_by_concept(x, acts, labels, probes, torch.eye(2), [[0], [1]])
    assert [concept.words.tolist() for concept in found] == [[0], [2, 3]]


def test_f1_by_hand():
    predicted = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]]).bool()
    actual = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]).bool()
    assert f1_scores(predicted, actual).tolist() == pytest.approx([0.8, 2 / 3, 0.0])
    per_k = f1_scores(predicted[:, None].expand(4, 2, 3), actual[:, :2, None])
    assert per_k.shape == (2, 3)


def test_the_true_probe_is_at_the_minimum_of_its_objective():
    generator = torch.Generator().manual_seed(0)
    x = 5 * torch.randn(300, 6, generator=generator)
    labels = torch.stack([x[:, 0] + x[:, 1] > 4, x[:, 2] > 3], dim=1)
    labels[::20] = ~labels[::20]
    probes = true_probes(x, labels, weight_decay=0.01)
    w = probes.weights.double().requires_grad_()
    b = probes.biases.double().requires_grad_()
    positive = labels.double().sum(0)
    loss = binary_cross_entropy_with_logits(
        x.double() @ w.T + b, labels.double(), pos_weight=(300 - positive) / positive,
        reduction="none",
    )  # fmt: skip
    objective = loss.mean(0).sum() + 0.005 * w.square().sum()
    gradients = torch.autograd.grad(objective, (w, b))
    assert max(float(g.abs().max()) for g in gradients) < 1e-3
    assert f1_scores(probes.scores(x) > 0, labels).min() > 0.8


def planted_latents(n=400):
    """Latents 0 and 1 share concept 0, latent 2 is concept 1, 3 is noise, 4 is dead."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(n) % 4
    acts = torch.stack([kind == 0, kind == 1, kind == 2], dim=1).float()
    acts = torch.cat([acts, (torch.rand(n, 1, generator=generator) < 0.3).float()], dim=1)
    acts = torch.cat([acts * (1 + torch.rand(n, 4, generator=generator)), torch.zeros(n, 1)], dim=1)
    return acts, torch.stack([kind <= 1, kind == 2], dim=1)


def test_sparse_weights_are_at_the_minimum_of_their_objective():
    acts, labels = planted_latents()
    labels[::17] = ~labels[::17]
    l1_decay = 0.02
    weights = sparse_weights(acts, labels, l1_decay).double().requires_grad_()
    positive = labels.double().sum(0)
    balance = (len(labels) - positive) / positive
    biases = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def loss():
        logits = acts.double() @ weights.T + biases
        return binary_cross_entropy_with_logits(
            logits, labels.double(), pos_weight=balance, reduction="none"
        ).mean(0)  # fmt: skip

    fit = torch.optim.LBFGS([biases], max_iter=50, tolerance_grad=1e-9)
    fit.step(lambda: (fit.zero_grad(), total := loss().sum(), total.backward())[1])
    (slope,) = torch.autograd.grad(loss().sum(), weights)
    chosen = weights != 0
    assert chosen.any(1).all()
    assert torch.allclose(slope[chosen], -l1_decay * weights[chosen].sign(), atol=2e-3)
    assert (slope[~chosen].abs() <= l1_decay + 2e-3).all()


def test_sparse_weights_find_the_latents():
    acts, labels = planted_latents()
    weights = sparse_weights(acts, labels, l1_decay=0.01)
    assert set(weights[0].topk(2).indices.tolist()) == {0, 1}
    assert weights[1].argmax() == 2
    assert (weights[:, 4] == 0).all()
    assert weights[:, 3].abs().max() < 0.1 * weights[0].max()
    assert torch.equal(weights, sparse_weights(acts, labels, 0.01))


def test_main_latents_are_those_that_a_concept_is_split_into():
    acts, labels = planted_latents()
    weights = torch.tensor([[3.0, 2.0, 0.0, 1.0, 0.0], [0.0, 0.0, 3.0, 2.0, 1.0]])
    data = (acts, labels)
    split, single = main_latents(weights, data, data, max_k=4, f1_jump=0.03)
    assert split.latents == [0, 1]
    assert single.latents == [2]
    assert split.f1_by_k == pytest.approx([2 / 3, 1.0, 1.0], abs=0.01)
    assert single.f1_by_k == pytest.approx([1.0, 1.0])
    assert main_latents(weights, data, data, 1, 0.03)[0].latents == [0]
    assert main_latents(weights, data, data, 4, 0.5)[0].latents == [0]
    # From 2/3 to 1: a jump of a third is not enough when more than a third is asked for.
    assert main_latents(weights, data, data, 4, 1 / 3 - 0.01)[0].latents == [0, 1]
    assert main_latents(weights, data, data, 4, 1 / 3 + 0.01)[0].latents == [0]


class PlantedModel:
    """Activations at a token: its first letter's axis and its own axis, nothing of the context."""

    def __init__(self):
        self.tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
        self.device = torch.device("cpu")
        texts = [self.tokenizer.decode([n]).strip() for n in range(2048)]
        self.table = torch.zeros(2048, 26 + 2048)
        for n, text in enumerate(texts):
            if text.isascii() and text.isalpha():
                self.table[n, ord(text[0].lower()) - ord("a")] = 1.0
                self.table[n, 26 + n] = 1.0

    def activations(self, tokens):
        return self.table[tokens]


def planted_sae(absorbed_tokens):
    """A latent for each letter and each word; an absorbed word's latent has the letter with it."""
    sae = StandardSAE(26 + 2048, 26 + 2048)
    sae.W_dec.data = torch.eye(26 + 2048)
    sae.W_enc.data = torch.eye(26 + 2048)
    sae.b_enc.data.zero_()
    sae.b_dec.data.zero_()
    for token, letter in absorbed_tokens.items():
        sae.W_enc.data[26 + token, letter] = -1.0  # the letter's latent stays silent
        sae.W_dec.data[26 + token, letter] = 1.0
    sae.W_dec.data /= sae.W_dec.data.norm(dim=1, keepdim=True)
    return sae


@pytest.fixture(scope="module")
def planted():
    return PlantedModel()


def subject_of(model, sae):
    said = []
    source = SimpleNamespace(language_model=model, prepend_bos=True)
    subject = SimpleNamespace(sae=sae, model=model, harvest=source, say=said.append)
    return subject, said


OPTIONS = {"max_words": 700, "n_examples": 1, "max_k": 3, "n_resamples": 200}


@pytest.mark.slow
def test_planted_absorption_is_found_and_nothing_else(planted):
    task = Absorption(**OPTIONS)
    words, _, test = task.choose_words(planted.tokenizer)
    absorbed = {int(words.tokens[i]): int(words.letters[i]) for i in test[::3]}
    names = {words.texts[i] for i in test[::3]}
    subject, said = subject_of(planted, planted_sae(absorbed))
    found = task.run(subject)
    concepts = [c for c in found["details"]["concepts"] if len(c["concept"]) == 1]
    assert {word for concept in concepts for word in concept["absorbed"]} == names
    tokens = dict(zip(words.texts, words.tokens.tolist(), strict=True))
    for concept in concepts:
        assert concept["main_latents"] == [ord(concept["concept"]) - ord("a")]
        assert concept["probe_f1"] > 0.9
        assert all(latent == 26 + tokens[word] for word, latent in concept["absorbed"].items())
    rates = [len(c["absorbed"]) / c["probe_true_positives"] for c in concepts]
    assert found["scores"]["absorption_full"] == pytest.approx(np.mean(rates))
    assert found["scores"]["absorption_fraction"] == pytest.approx(np.mean(rates))
    assert found["scores"]["absorption_letters"] == len(concepts) >= 20
    assert found["scores"]["absorption_split_latents"] == 1.0
    low, high = found["intervals"]["absorption_full"]
    assert low < np.mean(rates) < high
    assert not said


@pytest.mark.slow
def test_without_absorption_the_scores_are_zero(planted):
    subject, _ = subject_of(planted, planted_sae({}))
    found = Absorption(**OPTIONS).run(subject)
    assert found["scores"]["absorption_full"] == 0
    assert found["scores"]["absorption_fraction"] == 0
    assert list(found["scores"]) == list(Absorption.metric_names) == list(found["intervals"])


def test_a_model_that_knows_no_letters(small_model):
    subject, said = subject_of(small_model, StandardSAE(16, 64))
    options = {**OPTIONS, "max_words": 250}
    with pytest.raises(RunError, match=r"only \d+ first letters .* min_letters=20") as error:
        Absorption(**options, min_letters=20).run(subject)
    assert "\n" not in str(error.value)
    found, again = (Absorption(**options, min_probe_f1=0.05).run(subject) for _ in range(2))
    assert found["scores"] == again["scores"]
    assert found["intervals"] == again["intervals"]
    for name in ("absorption_full", "absorption_fraction", "absorption_shape_full"):
        low, high = found["intervals"][name]
        assert 0 <= low <= found["scores"][name] <= high <= 1
    n_letters = int(found["scores"]["absorption_letters"])
    assert f"the model knows {n_letters} first letters" in said[-1]


@pytest.mark.slow
def test_the_bundled_model_knows_its_letters():
    """By the task's own definition, on words that no probe was trained on."""
    model = LanguageModel("tiny", "blocks.3.hook_resid_post")
    subject, _ = subject_of(model, StandardSAE(model.d_in, 16))
    task = Absorption()
    words, train, test = task.choose_words(model.tokenizer)
    x = task.activations(subject, words, words.take(train))
    names, labels = concepts_of(words, train, test)
    probes = true_probes(x[train], labels[train], task.probe_weight_decay)
    f1 = f1_scores(probes.scores(x[test]) > 0, labels[test])
    known = {name for name, score in zip(names, f1, strict=True) if score > task.min_probe_f1}
    assert len(known & set(ascii_lowercase)) >= ENOUGH_LETTERS
    assert {"space", "capital"} <= known


def test_checked_before_any_work(small_model):
    source = SimpleNamespace(language_model=small_model)
    with pytest.raises(InvalidOption, match="max_k=10: must be at most"):
        Absorption().check(source, StandardSAE(16, 8))
    with pytest.raises(RunError, match="splits J, K, Q"):
        Absorption(template="\n{word} {letter}").check(source, StandardSAE(16, 32))
    Absorption().check(source, StandardSAE(16, 32))


@pytest.mark.parametrize(
    "options",
    [
        {"max_k": 0},
        {"min_letters": 0},
        {"test_share": 0.0},
        {"test_share": 1.0},
        {"min_probe_f1": 1.5},
        {"max_words": 10},
        {"probe_weight_decay": 0.0},
        {"n_examples": -1},
    ],
)
def test_bad_options(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        Absorption(**options)
