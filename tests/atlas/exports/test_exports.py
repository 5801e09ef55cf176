"""`python -m temporal_sae.atlas export`: what other tools read of an atlas."""

import gzip
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from temporal_sae.atlas import Atlas
from temporal_sae.atlas.__main__ import main
from temporal_sae.atlas.exports import neuronpedia
from temporal_sae.experiment import run_experiment
from temporal_sae.sae import TopKSAE, load_sae
from tests.atlas.exports import documented
from tests.atlas.exports.documented import read, read_lines
from tests.atlas.exports.made_up import CONTEXT, D_SAE, DEAD, FACTS, N_TOKENS, TEXTS, made_up
from tests.test_cli import small
from tests.test_config_surface import composed

SOURCE_ID = "3-run-of-a-monday"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """The folder of a made-up atlas."""
    return made_up(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def tables(atlas):
    """Its tables as columns."""
    names = ("latents", "examples")
    return {name: pq.read_table(atlas / f"{name}.parquet").to_pydict() for name in names}


@pytest.fixture(scope="module")
def exported(atlas, tmp_path_factory):
    """Files of it for Neuronpedia, three latents in a file."""
    output = tmp_path_factory.mktemp("exported")
    main(["export", "neuronpedia", str(atlas), f"--output={output}", "--batch-size=3"])
    return output / "pythia-70m" / SOURCE_ID


@pytest.fixture(scope="module")
def dashboards(atlas, tmp_path_factory):
    """Files of it as SAEDashboard writes them."""
    output = tmp_path_factory.mktemp("dashboards")
    main(["export", "saedashboard", str(atlas), f"--output={output}", "--batch-size=4"])
    (folder,) = output.iterdir()
    return [read(documented.DashboardBatch, json.loads(f.read_text())) for f in batches(folder)]


def batches(folder):
    """The batch files of a folder, in order."""
    return sorted(folder.glob("batch-*"), key=lambda f: int(f.name.split("-")[1].split(".")[0]))


def rows(folder, kind, part):
    """The rows of all batches of a part."""
    texts = [gzip.decompress(f.read_bytes()).decode() for f in batches(folder / part)]
    return [row for text in texts for row in read_lines(kind, text)]


def line(folder, kind, name):
    """The only row of a file."""
    (row,) = read_lines(kind, (folder / f"{name}.jsonl").read_text())
    return row


def float32(values):
    return np.asarray(values, np.float32)


def test_every_table_is_there_and_every_field_is_of_its_type(exported):
    features = rows(exported, documented.Feature, "features")
    assert [f.index for f in features] == [str(n) for n in range(D_SAE)]
    assert {(f.modelId, f.layer, f.sourceSetName) for f in features} == {
        ("pythia-70m", SOURCE_ID, "run-of-a-monday")
    }
    assert len(batches(exported / "features")) == 3
    source = line(exported, documented.Source, "source")
    assert (source.id, source.setName, source.modelId) == (
        SOURCE_ID,
        "run-of-a-monday",
        "pythia-70m",
    )
    assert (source.num_prompts, source.num_tokens_in_prompt) == (8, 128)  # of 1000 tokens
    assert source.saelensConfig["architecture"] == "topk"
    names = line(exported, documented.SourceSet, "sourceset")
    assert names.showCorrelated
    assert line(exported, documented.Release, "release").name == names.releaseName
    model = line(exported, documented.Model, "model")
    assert (model.id, model.owner) == ("pythia-70m", "EleutherAI")
    assert not (exported / "explanations").exists()


def test_phi_is_the_correlation_of_features(exported, tables):
    latents, n = tables["latents"], tables["latents"]["n"]
    for i, feature in enumerate(rows(exported, documented.Feature, "features")):
        assert feature.correlated_features_indices == latents["nearest_by_phi"][i]
        assert feature.correlated_features_pearson == pytest.approx(latents["nearest_phis"][i])
        for j, phi, cosine in zip(
            feature.correlated_features_indices,
            feature.correlated_features_pearson,
            feature.correlated_features_l1,
            strict=True,
        ):
            both = cosine * np.sqrt(n[i] * n[j])
            spread = n[i] * n[j] * (N_TOKENS - n[i]) * (N_TOKENS - n[j])
            assert phi == pytest.approx((N_TOKENS * both - n[i] * n[j]) / np.sqrt(spread))


def test_vectors_are_the_decoder_to_the_bit(exported, atlas):
    decoder = load_sae(atlas.parent / "sae").W_dec.detach().numpy()
    for feature, row in zip(rows(exported, documented.Feature, "features"), decoder, strict=True):
        assert feature.hasVector
        assert np.array_equal(float32(feature.vector), row)
        largest = np.argsort(-row)[:3]
        assert feature.neuron_alignment_indices == largest.tolist()
        assert feature.neuron_alignment_values == pytest.approx(row[largest])
        shares = abs(row[largest]) / abs(row).sum()
        assert feature.neuron_alignment_l1 == pytest.approx(shares)


def test_numbers_of_a_latent_are_those_of_the_table(exported, tables):
    latents = tables["latents"]
    for i, feature in enumerate(rows(exported, documented.Feature, "features")):
        assert feature.topkCosSimIndices == latents["nearest_by_cosine"][i]
        assert np.array_equal(
            float32(feature.topkCosSimValues), float32(latents["nearest_cosines"][i])
        )
        assert feature.frac_nonzero == pytest.approx(latents["density"][i])
        assert (feature.pos_str, feature.pos_values) == (
            TEXTS[:3],
            pytest.approx([3.5, 2.25, 0.1], rel=1e-6),
        )
        assert feature.neg_str == ["␀nul", *TEXTS[4:6]]  # PostgreSQL has no NUL
        assert feature.logits_hist_data_bar_heights == [2.0] * 40
        assert feature.logits_hist_data_bar_values[:2] == pytest.approx([-2.9, -2.7])
        if i == DEAD:
            assert (feature.maxActApprox, feature.freq_hist_data_bar_heights) == (0.0, [])
            continue
        assert float32(feature.maxActApprox) == float32(latents["max_activation"][i])
        assert feature.freq_hist_data_bar_heights == latents["histogram"][i]
        first = latents["max_activation"][i] / 80
        assert feature.freq_hist_data_bar_values[0] == pytest.approx(first)


def test_examples_are_those_of_the_table(exported, tables):
    examples, latents = tables["examples"], tables["latents"]
    found = rows(exported, documented.Activation, "activations")
    assert [a.index for a in found] == [str(n) for n in examples["latent"]]
    assert len({a.id for a in found}) == len(found)
    texts = dict(enumerate(["a", " b", "<script>", "␀nul", *TEXTS[4:]]))
    for n, one in enumerate(found):
        values = examples["activations"][n]
        assert np.array_equal(float32(one.values), float32(values))
        assert one.tokens == [texts.get(x, f"<{x}>") for x in examples["token_ids"][n]]
        assert one.qualifyingTokenIndex == examples["place"][n]
        assert one.maxValueTokenIndex == int(np.argmax(values))
        assert (one.maxValue, one.minValue) == pytest.approx((max(values), min(values)))
        document, position = examples["document"][n], examples["position"][n]
        assert one.dataIndex == (None if document < 0 else f"{document}:{position}")
        group, latent = examples["group"][n], examples["latent"][n]
        most, bins = latents["max_activation"][latent], latents["histogram"][latent]
        share = sum(bins[8 * (5 - group) : 8 * (6 - group)]) / N_TOKENS
        expected = {
            0: (-1, most, -1),
            6: (0, 0, 1 - latents["density"][latent]),
        }.get(group, (most * (5 - group) / 5, most * (6 - group) / 5, share))
        assert (one.binMin, one.binMax, one.binContains) == pytest.approx(expected)


def test_dashboards_say_the_same(dashboards, exported):
    assert [len(batch.features) for batch in dashboards] == [4, 3]
    features = [feature for batch in dashboards for feature in batch.features]
    ours = rows(exported, documented.Feature, "features")
    shared = set(vars(features[0])) & set(vars(ours[0]))
    assert len(shared) == 20
    for theirs, own in zip(features, ours, strict=True):
        assert {k: vars(theirs)[k] for k in shared} == {k: vars(own)[k] for k in shared}
    activations = [a for feature in features for a in feature.activations]
    for theirs, own in zip(
        activations, rows(exported, documented.Activation, "activations"), strict=True
    ):
        assert (theirs.tokens, theirs.values) == (own.tokens, own.values)
        assert theirs.qualifying_token_index == own.qualifyingTokenIndex
        bins = theirs.bin_min, theirs.bin_max, theirs.bin_contains
        assert bins == (own.binMin, own.binMax, own.binContains)
    batch = dashboards[0]
    assert (batch.model_id, batch.layer, batch.sae_set) == ("pythia-70m", 3, "run-of-a-monday")
    assert {(f.n_prompts_total, f.n_tokens_in_prompt) for f in features} == {(8, 128)}
    assert len(activations[0].tokens) == CONTEXT


def content(folder):
    """All files below a folder, and what they hold."""
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_what_is_typed_is_what_is_written(atlas, tmp_path):
    words = ["--model-id=gpt2-small", "--source-set=res-x", "--layer=7", "--creator-id=me"]
    more = ["--creator-name=Me", "--release=first", "--dataset=a/b", "--tokens-in-prompt=10"]
    more += ["--hf-repo=me/sae", "--hf-folder=l7", "--visibility=UNLISTED"]
    main(["export", "neuronpedia", str(atlas), f"--output={tmp_path}", *words, *more])
    folder = tmp_path / "gpt2-small/7-res-x"
    source = line(folder, documented.Source, "source")
    assert (source.hfRepoId, source.hfFolderId, source.visibility) == ("me/sae", "l7", "UNLISTED")
    assert (source.dataset, source.num_prompts, source.creatorId) == ("a/b", 100, "me")
    release = line(folder, documented.Release, "release")
    assert (release.name, release.creatorName) == ("first", "Me")
    assert {a.dataSource for a in rows(folder, documented.Activation, "activations")} == {"a/b"}


def test_an_export_replaces_an_earlier_one_once_it_is_whole(atlas, tmp_path, monkeypatch):
    words = ["export", "neuronpedia", str(atlas), f"--output={tmp_path}"]
    main([*words, "--batch-size=1"])
    before = content(tmp_path)

    def fail(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(neuronpedia.Names, "activation", fail)
        main(words)
    assert content(tmp_path) == before
    main(words)
    after = content(tmp_path)
    assert len(after) == len(before) - 2 * (D_SAE - 1)
    main(words)
    assert content(tmp_path) == after  # to the byte


def test_without_vectors_no_sae_is_needed(atlas, tmp_path):
    own = shutil.copytree(atlas, tmp_path / "atlas")
    main(["export", "neuronpedia", str(own), "--no-vectors", f"--output={tmp_path}"])
    features = rows(tmp_path / "pythia-70m" / SOURCE_ID, documented.Feature, "features")
    assert {(f.hasVector, len(f.vector), len(f.neuron_alignment_indices)) for f in features} == {
        (False, 0, 0)
    }


def test_a_title_and_a_model_from_elsewhere_lead_nowhere_else(tmp_path):
    facts = FACTS | {"title": "../../up", "model_name": "../.."}
    folder = made_up(tmp_path, facts)
    output = tmp_path / "output"
    main(["export", "neuronpedia", str(folder), f"--output={output}"])
    assert {p.name for p in output.iterdir()} == {"unnamed"}
    assert {p.name for p in (output / "unnamed").iterdir()} == {"3-up"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "nowhere: there is no such folder"),
        (["{atlas}", "--batch-size=0"], "--batch-size=0: must be a whole number of at least 1"),
        (["{atlas}", "--model-id=a/b"], "--model-id='a/b': must be letters, digits"),
        (["{atlas}", "--source-set=.."], "--source-set='..': must be letters"),
        (["{atlas}", "--layer=-1"], "--layer=-1: must be a whole number of at least 0"),
        (["{atlas}", "--tokens-in-prompt=0"], "--tokens-in-prompt=0: must be"),
        (["{atlas}", "--visibility=ALL"], "--visibility"),
        (["{atlas}", "--output={taken}"], "is there and is no such export"),
        (["{atlas}", "--sae={other}"], "is not the SAE that"),
        (["{atlas}", "--sae={smaller}"], "it has 3 latents"),
        (["{bare}"], "holds no SAE, whose decoder is exported; --sae names"),
    ],
)
def test_mistakes_are_one_line(atlas, tmp_path, capsys, words, told):
    bare = shutil.copytree(atlas, tmp_path / "bare" / "atlas")
    taken = tmp_path / "taken"
    (taken / "pythia-70m" / SOURCE_ID).mkdir(parents=True)
    (taken / "pythia-70m" / SOURCE_ID / "mine").touch()
    torch.manual_seed(1)
    TopKSAE(8, D_SAE, k=2).save(tmp_path / "other")
    TopKSAE(8, 3, k=2).save(tmp_path / "smaller")
    places = {"atlas": atlas, "bare": bare, "taken": taken}
    places |= {name: tmp_path / name for name in ("other", "smaller")}
    with pytest.raises(SystemExit) as ended:
        main(["export", "neuronpedia", *(word.format(**places) for word in words)])
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert told in err
    assert err.count("\n") == 1
    assert (taken / "pythia-70m" / SOURCE_ID / "mine").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"latent": list(range(D_SAE))[::-1]}, "its tables do not belong together"),
        ({"nearest_by_phi": [[D_SAE]] * D_SAE}, "its tables do not belong together"),
        ({"nearest_by_cosine": [[-1]] * D_SAE}, "do not belong together"),
        ({"logit_range": [[1.0]] * D_SAE}, "do not belong together"),
    ],
)
def test_tables_that_do_not_hold_together_are_one_line(tmp_path, capsys, change, told):
    folder = made_up(tmp_path, **change)
    with pytest.raises(SystemExit, match="2"):
        main(["export", "saedashboard", str(folder), "--no-vectors"])
    assert told in capsys.readouterr().err


def test_an_atlas_of_a_run_is_exported_from_its_folder(random_gemma, tmp_path):
    options = [o for o in small(random_gemma) if not o.startswith("eval.")]
    run_experiment(composed(*options, "eval=none"), tmp_path, options)
    main([str(tmp_path), "--tokens=2000", "--min-count=3"])
    names = ("--model-id=gemma", "--layer=1", "--source-set=res")
    for form in ("neuronpedia", "saedashboard"):
        main(["export", form, str(tmp_path / "atlas"), *names])
    folder = tmp_path / "atlas" / "exports" / "gemma" / "1-res"
    features = rows(folder, documented.Feature, "features")
    atlas = Atlas(tmp_path / "atlas")
    assert len(features) == atlas.latents.num_rows
    found = rows(folder, documented.Activation, "activations")
    assert len(found) == atlas.examples.num_rows
    assert {a.values[a.qualifyingTokenIndex] > 0 for a in found if a.binMax} == {True}
    assert {a.values[a.qualifyingTokenIndex] for a in found if not a.binMax} <= {0.0}
    assert line(folder, documented.Source, "source").num_tokens_in_prompt == 32


def test_an_atlas_of_before_is_one_line(tmp_path, capsys):
    folder = made_up(tmp_path)
    table = pq.read_table(folder / "latents.parquet").drop_columns(["histogram"])
    pq.write_table(table, folder / "latents.parquet")
    with pytest.raises(SystemExit, match="2"):
        main(["export", "neuronpedia", str(folder)])
    assert "latents.parquet: has no column histogram" in capsys.readouterr().err
