"""Counts of pairs over a whole text, against a dense computation."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.activations import Rows
from temporal_sae.atlas import counting
from temporal_sae.atlas.firings import Firings, FiringsWriter, remove_firings
from temporal_sae.errors import RunError
from temporal_sae.latents import Latents
from temporal_sae.training.checkpoint import Checkpoints


def written(folder, active, n_latents, window_size=1, block=7):
    """Firings of tokens whose active latents are given, each with an activation of its own."""
    writer = FiringsWriter(folder, n_latents, {})
    width = max(1, *map(len, active))
    for start in range(0, len(active), block):
        part = active[start : start + block]
        indices = torch.tensor([[*a, *[-1] * (width - len(a))] for a in part])
        values = torch.where(indices >= 0, 1.0 + indices, 0.0)
        writer.add(Rows(torch.zeros(len(part), 1)), Latents(values, indices))
    writer.note({})
    return Firings(folder, n_latents, window_size)


def all_pairs(firings, n_bytes=counting.BYTES_OF_POSTINGS):
    """Every pair as (i, j): (n, squares)."""
    counts, found = counting.firing_counts(firings), {}
    for lo, hi in counting.ranges(counts, n_bytes):
        postings = counting.postings_of(firings, counts, lo, hi)
        for part in counting.pair_counts(firings, postings):
            pairs = zip(part.i.tolist(), part.j.tolist(), strict=True)
            found |= dict(
                zip(pairs, zip(part.n.tolist(), part.squares.tolist(), strict=True), strict=True)
            )
    return found


def dense_pairs(active, n_latents, window_size):
    """The same from a matrix of tokens and latents, of whole windows."""
    active = active[: len(active) // window_size * window_size or len(active)]
    fires = np.zeros((len(active), n_latents), np.int64)
    for t, latents in enumerate(active):
        fires[t, list(latents)] = 1
    windows = [fires[a : a + window_size] for a in range(0, len(active), window_size)]
    n = fires.T @ fires
    squares = sum((w.T @ w) ** 2 for w in windows)
    return {
        (i, j): (int(n[i, j]), int(squares[i, j]))
        for i in range(n_latents)
        for j in range(i + 1, n_latents)
        if n[i, j]
    }


def test_by_hand(tmp_path):
    """Active sets {0,1} {0,1} {0,2} {1} in windows of two tokens."""
    active = [{0, 1}, {0, 1}, {0, 2}, {1}]
    firings = written(tmp_path / "of two", active, 3, window_size=2)
    assert counting.firing_counts(firings).tolist() == [3, 3, 1]
    assert all_pairs(firings) == {(0, 1): (2, 4), (0, 2): (1, 1)}
    firings = written(tmp_path / "of three", active, 3, window_size=3)
    assert firings.n_tokens == 3
    assert counting.firing_counts(firings).tolist() == [3, 2, 1]
    assert all_pairs(firings) == {(0, 1): (2, 4), (0, 2): (1, 1)}


tokens = st.lists(st.sets(st.integers(0, 11), max_size=6), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(active=tokens, window_size=st.integers(1, 9), n_bytes=st.sampled_from([1, 200, 10**6]))
def test_counts_are_those_of_a_dense_computation(tmp_path_factory, active, window_size, n_bytes):
    firings = written(tmp_path_factory.mktemp("firings"), active, 12, window_size)
    assert all_pairs(firings, n_bytes) == dense_pairs(active, 12, window_size)


def test_rows_of_counters_are_used_again(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "BYTES_OF_COUNTS", 1)
    active = [{0, 1, 3}, {1, 2}, {0, 3}, {2, 3}]
    assert all_pairs(written(tmp_path, active, 4)) == dense_pairs(active, 4, 1)


def test_wanted_pairs_are_yielded_whatever_their_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "BYTES_OF_COUNTS", 1)
    firings = written(tmp_path, [{0, 1, 3}, {1, 2}, {0, 3}], 4)
    counts, found = counting.firing_counts(firings), []
    postings = counting.postings_of(firings, counts, 0, 4)
    for part in counting.pair_counts(firings, postings, wanted=np.array([0 * 4 + 2, 1 * 4 + 2])):
        found += zip(part.i.tolist(), part.j.tolist(), part.n.tolist(), strict=True)
    assert found == [(0, 1, 1), (0, 2, 0), (0, 3, 2), (1, 2, 1), (1, 3, 1)]


@pytest.mark.parametrize("n_latents", [2**16, 2**16 + 1])
def test_latents_beyond_two_bytes(tmp_path, n_latents):
    firings = written(tmp_path, [{0, n_latents - 1}] * 2, n_latents)
    assert all_pairs(firings) == {(0, n_latents - 1): (2, 2)}


def test_postings_lead_to_tokens_and_activations(tmp_path):
    firings = written(tmp_path, [{2, 5}, set(), {5}, {2}], 6)
    counts = counting.firing_counts(firings)
    postings = counting.postings_of(firings, counts, 2, 6)
    own = postings.of(5)
    assert postings.tokens[own].tolist() == [0, 2]
    assert firings.values[postings.places[own]].tolist() == [6.0, 6.0]
    assert postings.tokens[postings.of(3)].tolist() == []


def test_ranges_hold_what_fits_and_at_least_one_latent():
    counts = np.array([100, 1, 1, 0, 50])
    found = list(counting.ranges(counts, n_bytes=3 * counting.POSTING_BYTES))
    assert found == [(0, 1), (1, 4), (4, 5)]


def test_a_pass_that_was_interrupted_goes_on_with_the_same_bytes(tmp_path):
    active = [{n % 5, 5 + n % 3} for n in range(20)]
    whole = written(tmp_path / "whole", active, 8)
    written(tmp_path / "parts", active[:7], 8)
    with (tmp_path / "parts" / "values.bin").open("ab") as file:
        file.write(b"torn")  # what had not been noted
    written(tmp_path / "parts", active[7:], 8)
    parts = Firings(tmp_path / "parts", 8)
    for name in ("latents", "values", "starts", "places"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name)), name


def test_a_note_after_a_thousand_million_tokens_is_found(tmp_path):
    for n in (999_999_999, 1_000_000_000, 12_000_000_000):
        Checkpoints(tmp_path, keep=1).save(n, {"n": n})
    assert Checkpoints(tmp_path).load_newest() == {"n": 12_000_000_000}
    assert len(Checkpoints(tmp_path).files()) == 1


@pytest.mark.parametrize("name", ["latents", "values", "sizes", "places"])
def test_a_file_that_has_lost_what_was_noted_is_refused_and_not_filled_up(tmp_path, name):
    written(tmp_path, [{0, 2}, {1}], 3)
    path = tmp_path / f"{name}.bin"
    for shorten in (lambda: path.write_bytes(path.read_bytes()[:-1]), path.unlink):
        shorten()
        for use in (lambda: FiringsWriter(tmp_path, 3, {}), lambda: Firings(tmp_path, 3)):
            with pytest.raises(RunError, match=rf"{name}\.bin is shorter than it was; remove"):
                use()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("sizes", [-1, 4], "sizes.bin does not add up"),
        ("sizes", [2**31 - 1, 1], "sizes.bin does not add up"),
        ("sizes", [2, 2], "sizes.bin does not add up"),
        ("sizes", [0, 2], "sizes.bin does not add up"),
        ("latents", [0, 3, 1], "latents.bin does not ascend from 0 to 2"),
        ("latents", [0, 65535, 1], "latents.bin does not ascend from 0 to 2"),
        ("latents", [2, 2, 1], "latents.bin does not ascend from 0 to 2"),
        ("latents", [2, 0, 1], "latents.bin does not ascend from 0 to 2"),
        ("latents", [0, 2, 3], "latents.bin does not ascend from 0 to 2"),
    ],
)
def test_files_that_would_lead_compiled_loops_astray_are_refused(tmp_path, name, content, told):
    written(tmp_path, [{0, 2}, {1}], 3)
    kind = {"sizes": np.int32, "latents": np.uint16}[name]
    (tmp_path / f"{name}.bin").write_bytes(np.array(content, kind).tobytes())
    with pytest.raises(RunError, match=told):
        Firings(tmp_path, 3)


def test_latents_below_zero_are_refused(tmp_path):
    written(tmp_path, [{5}], 2**16 + 1)
    (tmp_path / "latents.bin").write_bytes(np.array([-7], np.int32).tobytes())
    with pytest.raises(RunError, match="does not ascend from 0 to 65536"):
        Firings(tmp_path, 2**16 + 1)


@pytest.mark.parametrize("number", [-1, 2**62, "3", None, 2.0, True])
@pytest.mark.parametrize("name", ["n_tokens", "n_firings"])
def test_a_note_that_is_none_is_refused(tmp_path, name, number):
    written(tmp_path, [{0, 2}, {1}], 3)
    notes = Checkpoints(tmp_path, keep=1)
    notes.save(3, (notes.load_newest() or {}) | {name: number})
    for use in (lambda: FiringsWriter(tmp_path, 3, {}), lambda: Firings(tmp_path, 3)):
        with pytest.raises(RunError, match=r"remove .* and begin again"):
            use()
    assert (tmp_path / "sizes.bin").stat().st_size == 8


def test_removing_firings_leaves_what_is_not_theirs(tmp_path):
    folder = tmp_path / "firings"
    written(folder, [{0}], 3)
    remove_firings(folder)
    assert not folder.exists()
    written(folder, [{0}], 3)
    (folder / "thesis.txt").write_text("of a stranger")
    remove_firings(folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_the_note_is_removed_before_the_files(tmp_path, monkeypatch):
    """Killed between the two, the same command begins anew and does not trust the rest."""
    written(tmp_path, [{0}], 3)

    def killed_after(path, **options):
        os.unlink(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", killed_after)
    with pytest.raises(KeyboardInterrupt):
        remove_firings(tmp_path)
    monkeypatch.undo()
    assert FiringsWriter(tmp_path, 3, {}).n_tokens == 0


def test_firings_of_another_sae_are_begun_anew(tmp_path):
    written(tmp_path, [{0}, {1}], 3)
    writer = FiringsWriter(tmp_path, 3, {"sae": "another"})
    assert writer.n_tokens == 0
    assert (tmp_path / "latents.bin").stat().st_size == 0
