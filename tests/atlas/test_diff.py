"""`python -m temporal_sae.atlas diff`: changes of pairs and latents, and which latents they are."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from temporal_sae.atlas import Atlas
from temporal_sae.atlas.__main__ import main
from temporal_sae.atlas.build import Known, Options, write_tables
from temporal_sae.atlas.diff import Counted, latent_differences, pair_differences, rate_z
from temporal_sae.atlas.folder import FACTS
from temporal_sae.atlas.match import Matches, of_one_sae
from temporal_sae.atlas.pairs import Choice, Directions
from temporal_sae.errors import RunError
from temporal_sae.sae import TopKSAE
from tests.atlas.test_relations import written

N_LATENTS, D_IN, DOCUMENT, WINDOW = 40, 16, 100, 1000


def unit(seed):
    """Decoder directions."""
    rows = torch.randn(N_LATENTS, D_IN, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows)


def built(folder, fires, directions=None, choice=Choice()):  # noqa: B008
    """An atlas of a table of tokens and latents."""
    documents = np.arange(len(fires)) // DOCUMENT
    firings = written(folder / "firings", fires, documents)
    known = Known(Directions(unit(0) if directions is None else directions, None))
    write_tables(folder, firings, known, Options(choice=choice))
    return Atlas(folder)


def drawn(seed, n_tokens, burst=1.0, rate=0.05):
    """Independent latents; `burst`: all fire that many times as often in some windows."""
    rng = np.random.default_rng(seed)
    gain = np.where(rng.random(n_tokens // WINDOW) < 0.2, burst, 1.0).repeat(WINDOW)
    return rng.random((n_tokens, N_LATENTS)) < rate * gain[:, None]


def everything(a, b):
    """All pairs, whatever their z."""
    return pair_differences(a, b, Matches.by_number(a, b), 0.0)


def column(table, name):
    return table[name].to_numpy()


def test_rates_by_hand():
    """10 in 1000 tokens, 40 in 2000: a common rate of 1/60."""
    a = Counted(np.array([10.0]), np.array([1000.0]), np.array([0.5]))
    b = Counted(np.array([40.0]), np.array([2000.0]), np.array([4.0]))
    expected = (0.02 - 0.01) / math.sqrt(1 / 60 * (1 / 1000 + 4 / 2000))
    assert rate_z(a, b) == pytest.approx([expected])
    unknown = b._replace(fano=np.array([np.nan]))
    expected = (0.02 - 0.01) / math.sqrt(1 / 60 * (1 / 1000 + 1 / 2000))
    assert rate_z(a, unknown) == pytest.approx([expected])
    none = a._replace(n=np.array([0.0]))
    assert np.isnan(rate_z(none, none)).all()


@pytest.mark.parametrize("burst", [1.0, 3.0])
def test_z_of_two_texts_of_one_kind_is_that_of_chance(tmp_path, burst):
    """Bursts make all pairs vary together; their Fano factor keeps z from growing."""
    z = []
    for seed in range(3):
        a = built(tmp_path / f"a{seed}", drawn(2 * seed, 40_000, burst))
        b = built(tmp_path / f"b{seed}", drawn(2 * seed + 1, 60_000, burst))
        found = everything(a, b)
        z.append([column(found, name) for name in ("z_rate", "z_lift")])
    assert np.isfinite(z[0]).all()
    deviations = np.sqrt(np.mean([np.mean(np.square(part), 1) for part in z], 0))
    assert (deviations < 1.1).all(), deviations
    assert burst > 1 or (deviations > 0.9).all(), deviations


def test_a_pair_that_changed_is_found(tmp_path):
    one, two = drawn(0, 40_000), drawn(1, 40_000)
    two[:, 7] = np.where(np.random.default_rng(2).random(len(two)) < 0.5, two[:, 3], two[:, 7])
    two[:, 9] &= drawn(3, 40_000, rate=0.5)[:, 0]
    a, b = built(tmp_path / "a", one), built(tmp_path / "b", two)
    matches = Matches.by_number(a, b)
    found = pair_differences(a, b, matches, 6.0).to_pylist()
    assert [(row["i"], row["j"]) for row in found] == [(3, 7)]
    row = found[0]
    for side, fires in (("a", one), ("b", two)):
        assert row[f"n_ij_{side}"] == (fires[:, 3] & fires[:, 7]).sum()
        assert row[f"rate_{side}"] == pytest.approx((fires[:, 3] & fires[:, 7]).mean())
        assert row[f"phi_{side}"] == pytest.approx(np.corrcoef(fires[:, [3, 7]].T)[0, 1])
    assert min(row["z_rate"], row["z_lift"]) > 6
    latents = latent_differences(a, b, matches)
    z = column(latents, "z")
    assert np.abs(z).argmax() == 9
    assert z[9] < -6
    assert latents["n_b"].to_pylist() == two.sum(0).tolist()
    assert latents["density_a"].to_pylist() == pytest.approx(one.mean(0).tolist())


def test_pairs_without_a_row_get_the_count_that_differs_least(tmp_path):
    """1000 tokens; of 12 and at most 9 together, and of 30 and at most 9."""
    fires = np.zeros((2, 1000, N_LATENTS), bool)
    fires[:, :100, 0] = fires[:, :100, 2] = True
    for text, (n, m) in enumerate([(12, 30), (3, 2)]):
        fires[text, 100 - n : 200 - n, 1] = True
        fires[text, 100 - m : 200 - m, 3] = True
    a, b = (built(tmp_path / name, f) for name, f in zip("ab", fires, strict=True))
    rows = {(r["i"], r["j"]): r for r in everything(a, b).to_pylist()}
    for pair, n in (((0, 1), 12), ((2, 3), 30)):
        row = rows[pair]
        assert (row["n_ij_a"], row["n_ij_b"], row["relation_b"]) == (n, None, None)
        assert math.isnan(row["phi_b"]) and math.isnan(row["rate_b"])
        least = (9 - n) / 1000 / math.sqrt((9 + n) / 2000 * 2 / 1000)
        assert row["z_rate"] == pytest.approx(least)
        # Independent latents would both fire in 10 tokens of each text.
        least = (0.9 - n / 10) / math.sqrt((9 + n) / 20 * 2 / 10)
        assert row["z_lift"] == pytest.approx(least)
    back = {(r["i"], r["j"]): r for r in everything(b, a).to_pylist()}
    assert back[2, 3]["z_lift"] == pytest.approx(-rows[2, 3]["z_lift"])


def test_a_pair_that_may_be_missing_for_its_z_has_none(tmp_path):
    a = built(tmp_path / "a", drawn(0, 20_000))
    b = built(tmp_path / "b", drawn(1, 20_000), choice=Choice(min_z=1.0))
    found = everything(a, b)
    is_known = np.isin(
        [f"{i} {j}" for i, j in pairs_of(found)], [f"{i} {j}" for i, j in pairs_of(b.pairs)]
    )
    assert 0 < is_known.sum() < len(is_known)
    for name in ("z_rate", "z_lift"):
        assert (np.isfinite(column(found, name)) == is_known).all()


def pairs_of(table):
    """(i, j) of each row."""
    return list(zip(table["i"].to_pylist(), table["j"].to_pylist(), strict=True))


def test_latents_are_matched_by_their_directions(tmp_path):
    directions, fires = unit(0), drawn(0, 20_000)
    fires[:, 5] = fires[:, 2] & (np.random.default_rng(1).random(len(fires)) < 0.4)
    order = np.random.default_rng(2).permutation(N_LATENTS)
    others = directions[order].clone()
    lost = int(np.flatnonzero(order == 11)[0])
    others[lost] = -others[lost]
    more = torch.cat([others, -others[:3]])  # latents that A has not
    a = built(tmp_path / "a", fires)
    b = built(tmp_path / "b", np.hstack([fires[:, order], fires[:, :3]]), more)
    assert of_one_sae(a, a)
    assert not of_one_sae(a, b)
    matches = Matches.by_cosine(directions, more)
    assert 11 not in matches.a
    assert len(matches.a) == N_LATENTS - 1
    assert order[matches.b].tolist() == matches.a.tolist()
    assert matches.cosine == pytest.approx(np.ones(N_LATENTS - 1), abs=1e-5)
    found = pair_differences(a, b, matches, 0.0).to_pylist()
    assert all(row["n_ij_a"] == row["n_ij_b"] and row["z_rate"] == 0 for row in found)
    assert all(order[row["i_b"]] == row["i"] and order[row["j_b"]] == row["j"] for row in found)
    own = next(row for row in found if (row["i"], row["j"]) == (2, 5))
    assert own["relation_a"] == own["relation_b"] == "parent"
    assert not any(11 in (row["i"], row["j"]) for row in found)


def as_run(folder, fires, sae=None):
    """A folder as a run leaves it, with an atlas in it."""
    directions = None if sae is None else torch.nn.functional.normalize(sae.W_dec.detach())
    built(folder / "atlas", fires, directions)
    if sae is not None:
        sae.save(folder / "sae")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs whose SAEs have the same latents in another order, and their order."""
    folder, order = tmp_path_factory.mktemp("runs"), np.random.default_rng(2).permutation(N_LATENTS)
    one, two = TopKSAE(D_IN, N_LATENTS, 4), TopKSAE(D_IN, N_LATENTS, 4)
    with torch.no_grad():
        two.W_dec.copy_(one.W_dec[order])
    first, second = drawn(0, 20_000), drawn(1, 20_000)
    second[:, 8] = second[:, 4]
    as_run(folder / "a", first, one)
    as_run(folder / "b", second[:, order], two)
    return folder, order


def test_the_command_compares_two_runs(runs, capsys):
    folder, order = runs
    main(["diff", str(folder / "a"), str(folder / "b")])
    printed = capsys.readouterr().out
    assert "40 of 40 latents have a counterpart among 40, by cosine" in printed
    assert "latents whose density has changed most:" in printed
    line = next(line for line in printed.splitlines() if line.endswith("  4 and 8"))
    assert " to 1  4 and 8" in line
    pairs = pq.read_table(folder / "b" / "atlas" / "diff.parquet").to_pylist()
    own = next(row for row in pairs if (row["i"], row["j"]) == (4, 8))
    assert (order[own["i_b"]], order[own["j_b"]]) == (4, 8)
    assert all(max(abs(row["z_rate"]), abs(row["z_lift"])) >= 3 for row in pairs)
    latents = pq.read_table(folder / "b" / "atlas" / "diff_latents.parquet")
    assert order[latents["latent_b"].to_numpy()].tolist() == latents["latent"].to_pylist()


def test_the_same_sae_needs_no_directions(tmp_path, capsys):
    atlas = built(tmp_path / "alone", drawn(0, 20_000))
    other = built(tmp_path / "other", drawn(5, 20_000))
    (tmp_path / "out").mkdir()
    main(["diff", *(str(one.folder) for one in (atlas, other)), f"--output={tmp_path / 'out'}"])
    assert "by number" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "diff.parquet",
        "diff_latents.parquet",
    }


def test_mistakes_are_told_in_a_line(tmp_path, runs, capsys):
    folder, _ = runs
    alone = built(tmp_path / "alone", drawn(0, 2000), unit(7)).folder
    a, b = str(folder / "a"), str(folder / "b")
    for words, told in (
        ([a, str(tmp_path)], "latents.parquet: is missing"),
        ([a, str(alone)], "the SAE of this atlas is needed to find counterparts of its latents"),
        ([a, str(alone), f"--sae-b={folder / 'a'}"], "is another SAE than that of"),
        (
            [a, b, "--output=/dev/null/x"],
            "--output=/dev/null/x: must be a folder that can be written",
        ),
        ([a, b, "--min-z=nan"], "--min-z=nan"),
        ([a], "the following arguments are required: b"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["diff", *words])
        assert stopped.value.code == 2
        assert told in capsys.readouterr().err, words
    main(["diff", a, str(alone), "--match=number", f"--output={tmp_path}"])
    assert "40 of 40 latents have a counterpart among 40, by number" in capsys.readouterr().out


def test_an_atlas_that_does_not_say_what_it_leaves_out_is_one_line(tmp_path):
    a, b = (built(tmp_path / name, drawn(seed, 1000)) for seed, name in enumerate("ab"))
    path = b.folder / "latents.parquet"
    table = pq.read_table(path)
    facts = json.loads(table.schema.metadata[FACTS])
    del facts["min_count"]
    pq.write_table(table.replace_schema_metadata({FACTS: json.dumps(facts)}), path)
    with pytest.raises(RunError, match="does not say which pairs it leaves out"):
        everything(a, Atlas(b.folder))
