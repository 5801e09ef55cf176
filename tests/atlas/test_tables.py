"""Every column of both tables against a dense computation, on random firings."""

import math

import numpy as np
import pytest
import torch

from temporal_sae.activations import Rows
from temporal_sae.atlas import Atlas
from temporal_sae.atlas.build import Known, Options, write_tables
from temporal_sae.atlas.chance import dealt_out
from temporal_sae.atlas.documents import DocumentCounts
from temporal_sae.atlas.firings import Firings, FiringsWriter
from temporal_sae.atlas.pairs import Choice, Directions
from temporal_sae.latents import Latents

N_TOKENS, N_LATENTS, WINDOW, MIN_COUNT, MIN_Z = 403, 14, 10, 2, 0.5
N_DRAWS = 100
NOT_OF_NUMBERS = {"i", "j", "relation", "encoder_cosine"}


def quotient(a, b):
    """NaN where b is 0."""
    return a / b if b else math.nan


class Case:
    """A text of forty full windows and a rest; the latents 0 and 1 fire never and always."""

    def __init__(self, seed, folder):
        rng = np.random.default_rng(seed)
        acts = rng.gamma(2.0, size=(N_TOKENS, N_LATENTS)) * (
            rng.random((N_TOKENS, N_LATENTS)) < 0.3
        )
        acts[:, 2] *= rng.random(N_TOKENS) < 0.1
        acts[:, 4] = acts[:, 3] * (rng.random(N_TOKENS) < 0.5)  # a child
        acts[:, 6] = acts[:, 5]
        acts[:, 0], acts[:, 1] = 0, 1
        acts = acts.astype(np.float32)
        own = np.sort(rng.integers(2, 30, N_TOKENS - 3))
        documents = np.concatenate([[0, 1, 1], own])  # of one token, of two, and longer ones
        places = np.stack([rng.integers(-1, 14, N_TOKENS), documents, documents], 1)
        writer = FiringsWriter(folder / "firings", N_LATENTS, {})
        rows = Rows(torch.zeros(N_TOKENS, 1), torch.from_numpy(places).int())
        writer.add(rows, Latents.from_dense(torch.from_numpy(acts)))
        writer.note({})
        self.directions = torch.nn.functional.normalize(
            torch.from_numpy(rng.normal(size=(N_LATENTS, 4))).float()
        )
        self.firings = firings = Firings(folder / "firings", N_LATENTS, WINDOW)
        options = Options(N_TOKENS, WINDOW, Choice(MIN_COUNT, MIN_Z))
        write_tables(folder, firings, Known(Directions(self.directions, None)), options)
        atlas = Atlas(folder)
        self.pairs = {n: atlas.pairs[n].to_pylist() for n in atlas.pairs.column_names}
        self.latents = {n: atlas.latents[n].to_pylist() for n in atlas.latents.column_names}
        self.N = N = N_TOKENS // WINDOW * WINDOW
        self.ids, self.acts = places[:N, 0], acts[:N].astype(np.float64)
        self.fires = (self.acts > 0).astype(float)
        self.sizes = np.bincount(documents[:N])
        by_document = [self.fires[documents[:N] == d].sum(0) for d in np.unique(documents[:N])]
        self.sizes, self.by_document = self.sizes[self.sizes > 0], np.array(by_document)

    def windows(self, fires):
        """Fano factor and overdispersion."""
        counts = fires.reshape(-1, WINDOW).sum(1)
        mean, variance = counts.mean(), counts.var(ddof=1)
        return quotient(variance, mean), quotient(variance - mean, mean**2)

    def pair(self, i, j):
        """The numbers of a row."""
        N, n_i, n_j = self.N, *self.fires[:, [i, j]].sum(0)
        both = self.fires[:, i] * self.fires[:, j]
        n = both.sum()
        with np.errstate(invalid="ignore", divide="ignore"):
            phi = np.corrcoef(self.fires[:, i], self.fires[:, j])[0, 1]
        fano, overdispersion = self.windows(both)
        (a, b), s = self.by_document[:, [i, j]].T, self.sizes
        common, n_documents = ((a > 0) & (b > 0)).sum(), len(s)
        expected = (a * b / s).sum()
        variance = (a * b * (s - a) * (s - b) / (s**2 * np.maximum(s - 1, 1))).sum()
        cosine = float(self.directions[i] @ self.directions[j])
        return {
            "n_ij": n,
            "n_i": n_i,
            "n_j": n_j,
            "phi": phi,
            "npmi": quotient(math.log(N * n / (n_i * n_j)), -math.log(n / N)),
            "lift": N * n / (n_i * n_j),
            "jaccard": n / (n_i + n_j - n),
            "p_i_given_j": n / n_j,
            "p_j_given_i": n / n_i,
            "z": math.sqrt(N) * phi,
            "fano_factor": fano,
            "overdispersion": overdispersion,
            "documents_ij": common,
            "document_lift": n_documents * common / ((a > 0).sum() * (b > 0).sum()),
            "expected_in_documents": expected,
            "z_in_documents": quotient(n - expected, math.sqrt(variance)),
            "i_covers_j": quotient(n - expected, n_j - expected),
            "j_covers_i": quotient(n - expected, n_i - expected),
            "decoder_cosine": cosine,
            "c_cos2": n / N * cosine**2,
        }


@pytest.fixture(scope="module", params=range(3))
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp("tables"))


def test_pairs(case):
    together = case.fires.T @ case.fires
    i, j = np.nonzero(np.triu(together, 1) >= MIN_COUNT)
    wanted = {(a, b): case.pair(a, b) for a, b in zip(i.tolist(), j.tolist(), strict=True)}
    wanted = {pair: row for pair, row in wanted.items() if not abs(row["z"]) < MIN_Z}
    assert list(zip(case.pairs["i"], case.pairs["j"], strict=True)) == list(wanted)
    assert any(row["z"] < 0 for row in wanted.values())
    assert set(next(iter(wanted.values()))) == set(case.pairs) - NOT_OF_NUMBERS
    for name in set(case.pairs) - NOT_OF_NUMBERS:
        expected = [row[name] for row in wanted.values()]
        assert case.pairs[name] == pytest.approx(expected, rel=1e-5, abs=1e-7, nan_ok=True), name


def test_latents(case):
    for latent in range(N_LATENTS):
        own, fires = case.acts[:, latent], case.fires[:, latent]
        n, active = fires.sum(), own[own > 0]
        fano, burstiness = case.windows(fires)
        found = {name: column[latent] for name, column in case.latents.items()}
        expected = {
            "latent": latent,
            "n": n,
            "density": n / case.N,
            "max_activation": max(active, default=math.nan),
            "mean_activation": quotient(active.sum(), n),
            "fano_factor": fano,
            "burstiness": burstiness,
            "n_documents": (case.by_document[:, latent] > 0).sum(),
        }
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-7, nan_ok=True), name
        shares = {t: own[case.ids == t].sum() for t in set(case.ids[own > 0].tolist())}
        top = [t for t in sorted(shares, key=lambda t: -shares[t]) if t >= 0][:10]
        assert found["top_token_ids"] == top or latent == 1  # where many are equal
        in_order = [shares[t] / own.sum() for t in found["top_token_ids"]]
        assert found["top_token_shares"] == pytest.approx(in_order, rel=1e-5)
        assert found["top_tokens"] is None


def test_neighbours_and_relatives_are_those_of_the_pairs(case):
    rows = list(zip(*(case.pairs[n] for n in ("i", "j", "phi", "relation")), strict=True))
    both = rows + [
        (j, i, phi, {"parent": "child", "child": "parent"}.get(r, r)) for i, j, phi, r in rows
    ]
    assert {r for *_, r in rows} >= {None, "parent", "duplicate"}
    for latent in range(N_LATENTS):
        phis = {j: phi for i, j, phi, _ in both if i == latent and not math.isnan(phi)}
        nearest = case.latents["nearest_by_phi"][latent]
        assert nearest == sorted(phis, key=lambda j: -phis[j])[:10]
        assert case.latents["nearest_phis"][latent] == [phis[j] for j in nearest]
        # i is a parent of j: j is listed with the children of i.
        for name, of in (("child", "parents"), ("parent", "children"), ("duplicate", "duplicates")):
            wanted = [j for i, j, _, r in both if i == latent and r == name]
            assert sorted(case.latents[of][latent]) == sorted(wanted)


def test_dealing_out_gives_what_documents_expect_on_average(case):
    """In mean and variance over many draws, each of which has a seed of its own."""
    documents, draws = DocumentCounts(case.firings), []
    for seed in range(N_DRAWS):
        dealt = dealt_out(case.firings, documents, seed)
        fires = np.zeros((case.N, N_LATENTS), int)
        np.add.at(fires, (np.repeat(np.arange(case.N), np.diff(dealt.starts)), dealt.latents), 1)
        assert fires.max() == 1
        draws.append(fires.T @ fires)
    i, j = np.triu_indices(N_LATENTS, 1)
    found = np.stack(draws)[:, i, j]
    (a, b), s = case.by_document.T[[i, j]], case.sizes
    variance = (a * b * (s - a) * (s - b) / (s**2 * np.maximum(s - 1, 1))).sum(1)
    deviation = np.abs(found.mean(0) - (a * b / s).sum(1))
    assert (deviation <= 5 * np.sqrt(variance / N_DRAWS)).all()
    spread = found.var(0)[variance > 0] / variance[variance > 0]
    assert 0.9 < spread.mean() < 1.1
