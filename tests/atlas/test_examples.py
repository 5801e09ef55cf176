"""Examples, histograms and positions against a dense computation, on random firings."""

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from temporal_sae.activations import Rows
from temporal_sae.atlas import Atlas
from temporal_sae.atlas.build import Known, Options, write_tables
from temporal_sae.atlas.firings import Firings, FiringsWriter
from temporal_sae.atlas.pairs import Choice, Directions
from temporal_sae.latents import Latents

N_TOKENS, N_LATENTS, WINDOW, N_IDS = 3000, 9, 50, 12
LEFT, RIGHT = 24, 8
OFTEN, RARE, NEVER, ALWAYS, BY_TOKEN = range(5)


class Case:
    """Documents of all lengths; `BY_TOKEN` fires on id 3 alone, in most of its tokens."""

    def __init__(self, folder):
        rng = np.random.default_rng(7)
        fires = rng.random((N_TOKENS, N_LATENTS)) < 0.2
        fires[:, RARE] &= rng.random(N_TOKENS) < 0.01
        fires[:, NEVER], fires[:, ALWAYS] = False, True
        documents = np.sort(rng.integers(0, 60, N_TOKENS))
        positions = np.arange(N_TOKENS) - np.searchsorted(documents, documents)
        self.ids = rng.integers(0, N_IDS, N_TOKENS)
        fires[:, BY_TOKEN] = (self.ids == 3) & (rng.random(N_TOKENS) < 0.8)
        self.acts = (rng.gamma(2.0, size=fires.shape) * fires).astype(np.float32)
        places = np.stack([self.ids, documents, positions], 1)
        self.documents, self.positions = documents, positions
        writer = FiringsWriter(folder / "firings", N_LATENTS, {})
        rows = Rows(torch.zeros(N_TOKENS, 1), torch.from_numpy(places).int())
        writer.add(rows, Latents.from_dense(torch.from_numpy(self.acts)))
        writer.note({})
        firings = Firings(folder / "firings", N_LATENTS, WINDOW)
        unit = torch.nn.functional.normalize(torch.randn(N_LATENTS, 4))
        options = Options(N_TOKENS, WINDOW, Choice(1))
        text_of = lambda ids: [f"<{n}>" for n in ids]  # noqa: E731
        write_tables(folder, firings, Known(Directions(unit, None), text_of), options)
        self.atlas = Atlas(folder)

    def examples(self, latent, group):
        """The rows of a group."""
        table = self.atlas.examples
        of = pc.and_(pc.equal(table["latent"], latent), pc.equal(table["group"], group))
        return table.filter(of).to_pylist()


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return Case(tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize("latent", [OFTEN, RARE, NEVER, ALWAYS, BY_TOKEN])
def test_the_largest_activations_whose_contexts_do_not_overlap(case, latent):
    """The largest of each stretch of 33 tokens, and of these the largest that are far apart."""
    own = case.acts[:, latent]
    stretches = [np.arange(a, min(a + 33, N_TOKENS)) for a in range(0, N_TOKENS, 33)]
    best = [s[own[s].argmax()] for s in stretches if own[s].max() > 0]
    expected = []
    for token in sorted(best, key=lambda t: -own[t]):
        if all(abs(token - other) >= 33 for other in expected):
            expected.append(token)
    rows = case.examples(latent, 0)
    assert [row["token"] for row in rows] == expected[:20]
    assert [row["rank"] for row in rows] == list(range(len(rows)))


@pytest.mark.parametrize("latent", [OFTEN, RARE, NEVER, ALWAYS])
def test_samples_lie_in_their_intervals(case, latent):
    own = case.acts[:, latent].astype(float)
    top = {row["token"] for row in case.examples(latent, 0)}
    for group in range(1, 6):
        lowest, highest = ((6 - group - n) / 5 * own.max() for n in (1, 0))
        inside = {t for t in np.flatnonzero(own > 0) if lowest < own[t] <= highest} - top
        rows = case.examples(latent, group)
        tokens = [row["token"] for row in rows]
        assert set(tokens) <= inside
        assert len(set(tokens)) == len(tokens) == min(5, len(inside))
        assert [own[t] for t in tokens] == sorted((own[t] for t in tokens), reverse=True)


def test_samples_are_spread_over_the_text(case):
    """Of a latent that always fires, a sample of 5 from each half would be all in one by luck."""
    tokens = [row["token"] for group in (3, 4, 5) for row in case.examples(ALWAYS, group)]
    assert min(tokens) < N_TOKENS / 3 and max(tokens) > 2 * N_TOKENS / 3


def test_near_misses_are_silent_tokens_of_the_commonest_kinds(case):
    rows = case.examples(BY_TOKEN, 6)
    assert len({row["token"] for row in rows}) == 5
    assert all(case.ids[row["token"]] == 3 for row in rows)
    assert all(row["activation"] == 0 == case.acts[row["token"], BY_TOKEN] for row in rows)
    assert case.examples(ALWAYS, 6) == case.examples(NEVER, 6) == []


def test_contexts_show_the_text_and_the_activations(case):
    for row in case.atlas.examples.to_pylist():
        token, first = row["token"], row["first"]
        whole = [
            t
            for t in range(token - LEFT, token + RIGHT + 1)
            if 0 <= t < N_TOKENS and case.documents[t] == case.documents[token]
        ]
        assert first == whole[0] and first + row["place"] == token
        assert row["token_ids"] == case.ids[whole].tolist()
        assert row["activations"] == case.acts[whole, row["latent"]].tolist()
        assert row["activation"] == case.acts[token, row["latent"]]
        assert row["document"] == case.documents[token]
        assert row["position"] == case.positions[token]


def test_histograms_and_positions(case):
    edges = case.atlas.facts["position_edges"]
    assert edges == [0, 1, 2, 4, 8, 16, 32, 64][: len(edges)]
    of_all = np.bincount(np.searchsorted(edges, case.positions, "right") - 1)
    assert case.atlas.facts["tokens_at_positions"] == of_all.tolist()
    for row in case.atlas.latents.to_pylist():
        own = case.acts[:, row["latent"]]
        active = own[own > 0]
        bins = np.ceil(active / own.max() * 40).astype(int) - 1 if len(active) else []
        assert row["histogram"] == np.bincount(bins, minlength=40).tolist()
        found = np.searchsorted(edges, case.positions[own > 0], "right") - 1
        assert row["positions"] == np.bincount(found, minlength=len(edges)).tolist()


def test_tokens_of_the_text(case):
    names, counts = np.unique(case.ids, return_counts=True)
    rows = case.atlas.tokens.to_pylist()
    expected = zip(names.tolist(), counts.tolist(), strict=True)
    assert rows == [{"id": i, "text": f"<{i}>", "n": n} for i, n in expected]


def test_degrees_count_the_rows_of_pairs(case):
    both = np.concatenate([case.atlas.pairs[name].to_numpy() for name in "ij"])
    expected = np.bincount(both, minlength=N_LATENTS).tolist()
    assert case.atlas.latents["degree"].to_pylist() == expected
