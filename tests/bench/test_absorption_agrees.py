"""Our absorption and sae_bench's agree on the same activations, probes and latents."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from temporal_sae.eval.tasks.absorbed import absorption_by_concept
from temporal_sae.eval.tasks.absorption import Absorption, Concept
from temporal_sae.eval.tasks.absorption_probes import (
    f1_scores,
    main_latents,
    sparse_weights,
    true_probes,
)
from temporal_sae.eval.tasks.words import Words
from temporal_sae.sae import StandardSAE

LETTERS = "abcdefghijklmnopqrstuvwxyz"
D_IN, PER_LETTER, MAX_K, LAYER = 48, 14, 4, 3


@pytest.fixture(scope="module")
def theirs():
    """The modules of sae_bench's evaluation."""
    pytest.importorskip("sae_bench", reason="sae_bench is not installed: the extra is `bench`")
    from sae_bench.evals.absorption import (
        feature_absorption,
        feature_absorption_calculator,
        k_sparse_probing,
        main,
        probing,
    )

    return SimpleNamespace(
        run=feature_absorption,
        calculator=feature_absorption_calculator,
        sparse=k_sparse_probing,
        main=main,
        probing=probing,
    )


@pytest.fixture(scope="module")
def data():
    """Words with a letter's direction and their own; an SAE that knows both, more or less.

    Some letters have two latents for halves of their words, and many words' latents point partly
    along their letter, so that every criterion decides something.
    """
    generator = torch.Generator().manual_seed(3)

    def directions(n):
        rows = torch.randn(n, D_IN, generator=generator)
        return rows / rows.norm(dim=1, keepdim=True)

    n = 26 * PER_LETTER
    letters = torch.arange(n) // PER_LETTER
    of_letter, of_word = directions(26), directions(n)
    # The model hardly knows the last letters, and the others better in some words than in others.
    strength = 0.5 + 3.5 * torch.rand(n, generator=generator)
    strength[letters > 20] = 0.2
    x = strength[:, None] * of_letter[letters] + 4 * of_word
    half = torch.arange(n) % 2
    split = of_letter.repeat_interleave(2, 0) + 0.8 * directions(52)
    x = x + 0.8 * split[2 * letters + half] * (letters % 3 > 0)[:, None]
    x = x + 0.2 * torch.randn(n, D_IN, generator=generator)
    share = torch.rand(n, 1, generator=generator)
    W_dec = torch.cat([of_letter, split, of_word + share * of_letter[letters]])
    W_dec = W_dec / W_dec.norm(dim=1, keepdim=True)
    sae = StandardSAE(D_IN, len(W_dec))
    sae.W_dec.data = W_dec
    sae.W_enc.data = W_dec.T.clone()
    for word in (torch.rand(n, generator=generator) < 0.4).nonzero()[:, 0]:
        letter = letters[word]
        silent = torch.stack([letter, 26 + 2 * letter + half[word]])
        sae.W_enc.data[:, silent] -= 0.7 * of_word[word, :, None]
    sae.b_enc.data = -1.0 - 1.5 * torch.rand(len(W_dec), generator=generator)
    sae.b_enc.data[78:] -= 1.0
    sae.b_dec.data.zero_()
    order = torch.randperm(n, generator=generator)
    names = [f"{LETTERS[letters[i]]}{'o' * int(i % PER_LETTER + 1)}" for i in range(n)]
    return SimpleNamespace(
        x=x,
        letters=letters,
        names=names,
        sae=sae,
        train=order[: n * 3 // 5],
        test=order[n * 3 // 5 :],
    )


@pytest.fixture(scope="module")
def ours(data):
    """Our results on them."""
    labels = torch.nn.functional.one_hot(data.letters, 26).bool()
    with torch.no_grad():
        acts = data.sae.encode_dense(data.x)
    train, test = data.train, data.test
    probes = true_probes(data.x[train], labels[train], 1e-3)
    weights = sparse_weights(acts[train], labels[train], 0.01)
    # The minimum has many weights at zero; ties between them would be broken differently.
    weights = weights + 1e-6 * torch.rand(weights.shape, generator=torch.Generator().manual_seed(0))
    main = main_latents(
        weights, (acts[train], labels[train]), (acts[test], labels[test]), MAX_K, 0.03
    )
    found = absorption_by_concept(
        data.x[test], acts[test], labels[test], probes, data.sae.W_dec, [m.latents for m in main]
    )
    f1 = f1_scores(probes.scores(data.x[test]) > 0, labels[test])
    return SimpleNamespace(probes=probes, weights=weights, main=main, found=found, f1=f1)


@pytest.mark.filterwarnings("ignore:Precision is ill-defined")
def test_scores_are_equal(theirs, data, ours, monkeypatch, tmp_path):
    names = [data.names[i] for i in data.test]
    sae = sae_for_them(data.sae)
    probe = linear(theirs, ours.probes.weights, ours.probes.biases)
    metrics, raw = sparse_probing(theirs, data, ours, sae, probe, monkeypatch)
    raw.to_parquet(tmp_path / theirs.sparse.get_sparse_probing_raw_results_filename("sae", LAYER))
    stats = theirs.run.get_stats_and_likely_false_negative_tokens(metrics, "sae", LAYER, tmp_path)
    for letter, own, f1, found in zip(LETTERS, ours.main, ours.f1, ours.found, strict=True):
        assert stats[letter].split_feats == own.latents
        assert stats[letter].potential_false_negatives == [names[i] for i in found.words]
        row = metrics[metrics["letter"] == letter]
        assert row["f1_probe"].item() == f1
        tried = [row[f"f1_sparse_sae_{k + 1}"].item() for k in range(len(own.f1_by_k))]
        assert tried == own.f1_by_k
    words = theirs.run.calculate_projection_and_cos_sims(
        calculator(theirs, data), sae, probe, LAYER, stats
    )
    full = torch.cat([found.found.full for found in ours.found])
    fraction = torch.cat([found.found.fraction for found in ours.found])
    assert words["is_full_absorption"].tolist() == full.tolist()
    assert words["absorption_fraction"].tolist() == pytest.approx(fraction.tolist(), abs=1e-6)

    table = theirs.main._aggregate_results_df(words)
    known = metrics.set_index("letter")["f1_probe"]
    table = table[[known[letter] > 0.6 for letter in table["letter"]]]
    concepts = list(map(Concept, LETTERS, ours.f1.tolist(), ours.main, ours.found))
    scores = Absorption(min_probe_f1=0.6).summary(concepts, as_words(names), (0.0, 26.0))["scores"]
    assert scores["absorption_full"] == pytest.approx(
        table["full_absorption_rate"].mean(), abs=1e-12
    )
    expected = table["mean_absorption_fraction"].mean()
    assert scores["absorption_fraction"] == pytest.approx(expected, abs=1e-6)
    assert scores["absorption_split_latents"] == pytest.approx(table["num_split_feats"].mean())
    assert scores["absorption_letters"] == len(table)


def test_the_case_is_not_trivial(ours):
    full = torch.cat([found.found.full for found in ours.found])
    fraction = torch.cat([found.found.fraction for found in ours.found])
    assert 0.05 < full.double().mean() < 0.95
    assert ((fraction > 0) & (fraction < 1)).sum() > 10
    assert (fraction == 0).any()
    assert {len(main.latents) for main in ours.main} > {1}
    assert (ours.f1 > 0.6).sum() > 3


def sae_for_them(sae):
    """What sae_bench asks of an SAE here."""
    return SimpleNamespace(
        encode=lambda x: sae.encode_dense(x).detach(),
        W_dec=sae.W_dec.detach(),
        W_enc=sae.W_enc.detach(),
        device=torch.device("cpu"),
        dtype=torch.float32,
        cfg=SimpleNamespace(d_sae=sae.d_sae),
    )


def linear(theirs, weights, biases):
    """Their probe with our weights."""
    probe = theirs.probing.LinearProbe(weights.shape[1], len(weights))
    probe.fc.weight.data, probe.fc.bias.data = weights.clone(), biases.clone()
    return probe


def sparse_probing(theirs, data, ours, sae, probe, monkeypatch):
    """Their k-sparse probing with our L1 weights: (metrics, raw scores)."""
    l1_probe = linear(theirs, ours.weights, torch.zeros(26))
    monkeypatch.setattr(theirs.sparse, "train_sparse_multi_probe", lambda *a, **k: l1_probe)
    labelled = [(name, int(letter)) for name, letter in zip(data.names, data.letters, strict=True)]
    probes = theirs.sparse.train_k_sparse_probes(
        sae, [labelled[i] for i in data.train], data.x[data.train], ks=range(1, MAX_K + 1)
    )
    raw = theirs.sparse.eval_probe_and_sae_k_sparse_raw_scores(
        sae, probe, probes, [labelled[i] for i in data.test], data.x[data.test]
    )
    metadata = theirs.sparse.sae_k_sparse_metadata(sae, probe, probes, "sae", LAYER)
    metrics = theirs.sparse.build_metrics_df(raw, metadata, MAX_K)
    theirs.sparse.add_feature_splits_to_metrics_df(metrics, MAX_K, 0.03)
    return metrics, raw


def calculator(theirs, data):
    """Theirs, with a model that answers a prompt with our activations of its word."""
    at_word = dict(zip(data.names, data.x, strict=True))

    def run_with_cache(prompts, names_filter):
        words = [prompt.strip().removesuffix(":") for prompt in prompts]
        x = torch.stack([at_word[word] for word in words])
        return None, {names_filter[0]: torch.stack([torch.zeros_like(x), x, x * 0], dim=1)}

    model = SimpleNamespace(
        run_with_cache=run_with_cache,
        to_tokens=lambda text: torch.zeros(1, 3),
        tokenizer=SimpleNamespace(),
    )
    run = theirs.run
    return theirs.calculator.FeatureAbsorptionCalculator(
        model=model,
        icl_word_list=data.names,
        max_icl_examples=0,
        base_template="{word}:",
        word_token_pos=-2,
        full_absorption_probe_cos_sim_threshold=run.FULL_ABSORPTION_PROBE_COS_THRESHOLD,
        absorption_fraction_probe_cos_sim_threshold=run.ABSORPTION_FRACTION_PROBE_COS_THRESHOLD,
        probe_projection_proportion_threshold=run.ABSORPTION_PROBE_PROJECTION_PROPORTION_THRESHOLD,
        absorption_fraction_max_absorbing_latents=run.ABSORPTION_FRACTION_MAX_ABSORBING_LATENTS,
    )


def as_words(names):
    """The test words, for the details."""
    letters = np.array([LETTERS.index(name[0]) for name in names])
    return Words(tuple(names), np.arange(len(names)), letters)
