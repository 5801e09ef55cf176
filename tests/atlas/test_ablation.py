"""Latents taken away from the language model: by hand on a linear one, and in atlases of runs."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from temporal_sae.atlas import Atlas
from temporal_sae.atlas.__main__ import main
from temporal_sae.atlas.ablation import Case, cases_of, effects_of
from temporal_sae.errors import RunError
from temporal_sae.experiment import run_experiment
from temporal_sae.experiment.build import build_evaluation
from temporal_sae.sae import TopKSAE, load_sae
from tests.test_cli import small
from tests.test_config_surface import composed

VOCAB, WIDTH = 7, 3
TOKENS = 3000
COLUMNS = ["ablation_loss", "ablation_kl"]


class Linear:
    """A language model whose logits are a matrix times the embedding at the hook."""

    device = torch.device("cpu")

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.embedding = torch.randn(VOCAB, WIDTH, generator=generator)
        self.unembedding = torch.randn(WIDTH, VOCAB, generator=generator)

    def plain_pass(self, tokens):
        x = self.embedding[tokens]
        return x @ self.unembedding, lambda edit: edit(x) @ self.unembedding


@pytest.fixture
def sae():
    """Three latents, the coordinates of the embedding, of which the positive ones fire."""
    sae = TopKSAE(WIDTH, WIDTH, k=WIDTH)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(WIDTH))
        sae.W_dec.copy_(torch.tensor([[0.5, 0, 0], [0, 1, 0], [1, 0, 2]]))
    return sae


def by_hand(model, sae, case):
    """Loss and divergence of a case, one prediction after the other."""
    losses, divergences = [], []
    W_dec = sae.W_dec.detach().double().numpy()
    unembedding = model.unembedding.double().numpy()
    for position in range(case.own, int(case.context[-1])):
        x = model.embedding[case.tokens[position].long()].double().numpy()
        # A model that sees no other token is changed by what is taken away at this one alone.
        value = max(x[case.latent], 0) if position in case.context else 0
        p, q = (
            np.exp(z) / np.exp(z).sum()
            for z in (x @ unembedding, (x - value * W_dec[case.latent]) @ unembedding)
        )
        target = int(case.tokens[position + 1])
        losses.append(np.log(p[target]) - np.log(q[target]))
        divergences.append((p * np.log(p / q)).sum())
    return np.mean(losses), np.mean(divergences)


CASES = [
    Case(0, 0, torch.tensor([1, 2, 3, 4, 5]).int(), 1, torch.tensor([0, 1, 2, 3, 4])),
    Case(1, 2, torch.tensor([1, 2, 3, 4, 5]).int(), 1, torch.tensor([0, 1, 2, 3, 4])),
    Case(2, 1, torch.tensor([6, 6]).int(), 0, torch.tensor([0, 1])),
    Case(3, 1, torch.tensor([0, 4, 4, 2, 0, 0, 3, 1]).int(), 5, torch.tensor([2, 3, 5, 7])),
]


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_effects_are_those_computed_by_hand(sae, batch_size):
    model, done = Linear(), []
    found = effects_of(sae, model, CASES, batch_size, done.append)
    expected = [by_hand(model, sae, case) for case in CASES]
    assert max(kl for _, kl in expected) > 0.01
    assert found.loss == pytest.approx([loss for loss, _ in expected], abs=1e-6)
    assert found.kl == pytest.approx([kl for _, kl in expected], abs=1e-6)
    values = [float(model.embedding[c.tokens[c.own].long(), c.latent].relu()) for c in CASES]
    assert found.value == pytest.approx(values)
    assert done[-1] == len(CASES)


def test_a_latent_that_does_not_fire_changes_nothing(sae):
    model = Linear()
    silent = [c for c in CASES if (model.embedding[c.tokens.long(), c.latent] <= 0).all()]
    tokens = torch.tensor([t for t in range(VOCAB) if model.embedding[t, 0] <= 0][:2]).int()
    silent.append(Case(0, 0, tokens, 0, torch.tensor([0, 1])))
    found = effects_of(sae, model, silent, 4)
    assert (found.loss == 0).all()
    assert (found.kl == 0).all()


class Text:
    """A source whose sequences have five tokens, the first of which is BOS and gives no row."""

    def training_sequences(self, seed):
        numbers = torch.arange(4 * 50).reshape(-1, 4) + 100 * seed
        counted = torch.tensor([False, True, True, True, True])
        for own in numbers:
            rows = torch.zeros(5, 4, dtype=torch.int32)
            rows[1:, 0] = own
            rows[0, 0] = 9999
            yield rows, counted


def example(token, first, length, offset=0):
    """A row of the table: the id of a token is its number in the text."""
    ids = list(range(first + offset, first + offset + length))
    return {"latent": 3, "token": token, "first": first, "place": token - first, "token_ids": ids}


def test_examples_are_found_in_the_sequences_that_they_come_from():
    rows = [
        example(13, 6, 9),  # of three sequences, the third of which has its token
        example(5, 4, 3),
        example(0, 0, 4),
        example(7, 5, 6),  # the last of its sequence predicts nothing
        example(10, 9, 2),  # nor does the last of its context
    ]
    table = pa.Table.from_pylist(rows)
    found = cases_of(table, np.arange(5), Text(), 0)
    seen = [(c.row, c.tokens.tolist(), c.own, c.context.tolist()) for c in found]
    assert seen == [
        (2, [9999, 0, 1, 2, 3], 1, [1, 2, 3, 4]),
        (1, [9999, 4, 5, 6], 2, [1, 2, 3]),
        (0, [9999, 12, 13, 14], 2, [1, 2, 3]),
    ]
    assert cases_of(table, np.arange(0), Text(), 0) == []


def test_another_text_is_refused():
    table = pa.Table.from_pylist([example(5, 4, 3)])
    with pytest.raises(RunError, match="the text is not the one"):
        cases_of(table, np.arange(1), Text(), 1)


@pytest.fixture(scope="module")
def run(random_gemma, tmp_path_factory):
    """A finished run whose atlas has ablations of two examples of each latent."""
    options = [o for o in small(random_gemma) if not o.startswith("eval.")]
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_experiment(composed(*options, "eval=none"), folder, options)
    main([str(folder), f"--tokens={TOKENS}", "--min-count=3", "--ablate=2"])
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run, whose atlas has no ablations."""
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    for name in ("examples", "latents"):
        path = folder / "atlas" / f"{name}.parquet"
        pq.write_table(pq.read_table(path).drop_columns(COLUMNS), path)
    return folder


def frames(folder):
    """The examples and the latents of a run's atlas."""
    atlas = Atlas(folder / "atlas")
    return atlas.examples.to_pandas(), atlas.latents.to_pandas()


def test_in_an_atlas_they_are_those_of_two_whole_passes(run, random_gemma):
    examples, _ = frames(run)
    options = [o for o in small(random_gemma) if not o.startswith("eval.")]
    source = build_evaluation(composed(*options, "eval=none"), run).source
    sae, model = load_sae(run / "sae"), source.language_model
    sequences, places = [], []
    for n, (rows, counted) in zip(
        range(TOKENS // 31 + 1), source.training_sequences(0), strict=False
    ):
        sequences.append(rows[:, 0].long())
        places += [(n, int(position)) for position in counted.nonzero()[:, 0]]
    done = examples[examples.ablation_kl.notna()]
    assert len(done) > 50
    for _, row in done.sample(20, random_state=0).iterrows():
        n, own = places[row.token]
        context = [
            position
            for m, position in places[row["first"] : row["first"] + len(row.token_ids)]
            if m == n
        ]
        tokens = sequences[n][None]

        def without(x, context=context, latent=row.latent):
            values = sae.encode_dense(x)[..., latent]
            kept = torch.zeros_like(values)
            kept[:, context] = values[:, context]
            return x - kept[..., None] * sae.W_dec[latent]

        with torch.no_grad():
            p = model.logits(tokens)[0].log_softmax(-1)
            q = model.logits(tokens, without)[0].log_softmax(-1)
        predicted = range(own, context[-1])
        losses = [float((p - q)[at, tokens[0, at + 1]]) for at in predicted]
        divergences = [float((p[at].exp() * (p - q)[at]).sum()) for at in predicted]
        assert row.ablation_loss == pytest.approx(np.mean(losses), abs=1e-5)
        assert row.ablation_kl == pytest.approx(np.mean(divergences), abs=1e-5)


def test_top_examples_alone_are_ablated_and_latents_have_their_means(run):
    examples, latents = frames(run)
    done = examples[examples.ablation_kl.notna()]
    assert set(done.group) == {0}
    assert done["rank"].max() == 1
    means = done.groupby("latent")[COLUMNS].mean().reindex(range(len(latents)))
    for name in COLUMNS:
        assert latents[name].to_numpy() == pytest.approx(means[name], nan_ok=True)
    assert latents.ablation_kl.dropna().min() >= 0
    assert (
        Atlas(run / "atlas").latents["ablation_kl"].null_count
        == latents["ablation_kl"].isna().sum()
    )


def test_a_finished_atlas_gets_the_same(run, copy):
    before = Atlas(copy / "atlas").facts
    own, wanted = (folder / "atlas" / "site" / "latents" / "0.js" for folder in (copy, run))
    own.write_text("without them")
    main(["ablate", str(copy), "--examples=2"])
    assert own.read_bytes() == wanted.read_bytes()
    for ours, theirs in zip(frames(copy), frames(run), strict=True):
        assert str(ours.to_dict("list")) == str(theirs.to_dict("list"))
    assert Atlas(copy / "atlas").facts == before


def test_latents_are_done_some_at_a_time(run, copy):
    most = frames(run)[1].n.idxmax()
    main(["ablate", str(copy), f"--latents={most}", "--examples=1"])
    examples, latents = frames(copy)
    assert set(latents.index[latents.ablation_kl.notna()]) <= {most}
    assert examples.ablation_kl.notna().sum() <= 1
    main(["ablate", str(copy), "--latents=0-62,63", "--examples=2"])
    assert str(frames(copy)[0].to_dict("list")) == str(frames(run)[0].to_dict("list"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--examples=0"], "--examples=0: must be a whole number of at least 1"),
        (["--latents=64"], "--latents='64': must be numbers or spans such as 3,5,10-20, from 0"),
        (["--latents=5-3"], "--latents='5-3': must be"),
        (["--latents=all"], "--latents='all': must be"),
        (["--atlas=missing"], "latents.parquet: is missing"),
        (
            ["activations=synthetic", "activations.world.d_in=16"],
            "latents cannot be ablated: these activations come without a language model",
        ),
    ],
)
def test_mistakes_are_one_line(run, capsys, words, told):
    with pytest.raises(SystemExit) as ended:
        main(["ablate", str(run), *words])
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert told in err
    assert err.count("\n") == 1


def test_without_a_language_model_the_pass_does_not_begin(run, tmp_path, capsys):
    words = ("activations=synthetic", "activations.world.d_in=16")
    with pytest.raises(SystemExit, match="2"):
        main([str(run), f"--output={tmp_path / 'atlas'}", "--ablate=1", *words])
    assert "latents cannot be ablated: these activations come" in capsys.readouterr().err
    assert not (tmp_path / "atlas").exists()


def test_another_sae_or_text_is_refused(copy, text_folder, capsys):
    other = ("data=text_files", f"data.path={text_folder}", "data.held_out_fraction=0")
    with pytest.raises(SystemExit, match="2"):
        main(["ablate", str(copy), *other])
    assert "the text is not the one that the atlas was made of" in capsys.readouterr().err
    torch.manual_seed(5)
    TopKSAE(16, 64, k=4).save(copy / "sae")
    with pytest.raises(SystemExit, match="2"):
        main(["ablate", str(copy)])
    assert "the SAE or its text is not the one" in capsys.readouterr().err


@pytest.mark.parametrize("change", [("token", 10**6), ("first", -5), ("latent", 99)])
def test_examples_that_are_nowhere_are_one_line(copy, capsys, change):
    name, value = change
    path = copy / "atlas" / "examples.parquet"
    table = pq.read_table(path)
    column = table[name].to_pylist()
    column[0] = value
    place = table.column_names.index(name)
    changed = table.set_column(place, name, pa.array(column, table.schema.field(name).type))
    pq.write_table(changed, path)
    with pytest.raises(SystemExit, match="2"):
        main(["ablate", str(copy)])
    assert "has examples that are not in the text" in capsys.readouterr().err
