"""`python -m temporal_sae.atlas`: the tables of a run and of an SAE from elsewhere."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import hypergeom

from temporal_sae.atlas import Atlas
from temporal_sae.atlas import gather as gathering
from temporal_sae.atlas.__main__ import main
from temporal_sae.atlas.folder import PAIRS
from temporal_sae.errors import RunError
from temporal_sae.experiment import run_experiment
from temporal_sae.experiment.build import build_evaluation
from temporal_sae.locks import ProcessLock
from temporal_sae.sae import load_sae
from temporal_sae.training.checkpoint import Checkpoints
from tests.test_cli import small
from tests.test_config_surface import composed

TABLES = {"pairs.parquet", "latents.parquet", "examples.parquet", "tokens.parquet"}
TOKENS, WINDOW = 3000, 500
OPTIONS = (f"--tokens={TOKENS}", f"--window-size={WINDOW}", "--min-count=3")


@pytest.fixture(scope="module")
def options(random_gemma):
    """A run of a second on an untrained model."""
    return [o for o in small(random_gemma) if not o.startswith("eval.")]


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory):
    """A finished run with its atlas."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_experiment(composed(*options, "eval=none"), folder, options)
    main([str(folder), *OPTIONS])
    return folder


def table(folder, name):
    """A table of an atlas as columns of numpy, and its facts."""
    atlas = Atlas(folder)
    found = getattr(atlas, name)
    return {n: np.array(found[n]) for n in found.column_names}, atlas.facts


def content(path):
    """All of a table as text, in which NaN is equal to NaN."""
    return str(pq.read_table(path).to_pydict())


@pytest.fixture(scope="module")
def fires(finished, options):
    """A table of which latent fires in which token, from the SAE and the text themselves."""
    source = build_evaluation(composed(*options, "eval=none"), finished).source
    sae, reader, found, places = load_sae(finished / "sae"), source.reader(0), [], []
    while sum(map(len, found)) < TOKENS:
        rows = reader.read()
        found.append(sae.encode_dense(rows.x.to(sae.W_dec.dtype)) > 0)
        places.append(rows.places)
    whole = sum(map(len, found)) // WINDOW * WINDOW
    return torch.cat(found)[:whole].double().numpy(), torch.cat(places)[:whole].numpy()


def test_pairs_are_those_of_a_dense_computation(finished, fires):
    fires, places = fires
    pairs, facts = table(finished / "atlas", "pairs")
    together = np.triu(fires.T @ fires, 1)
    i, j = np.nonzero(together >= 3)
    assert (pairs["i"].tolist(), pairs["j"].tolist()) == (i.tolist(), j.tolist())
    assert pairs["n_ij"].tolist() == together[i, j].tolist()
    assert facts["n_tokens"] == len(fires)
    with np.errstate(invalid="ignore"):  # of latents that never fire
        correlation = np.corrcoef(fires.T)[i, j]
    assert pairs["phi"] == pytest.approx(correlation, abs=1e-9)
    windows = fires.reshape(-1, WINDOW, fires.shape[1])
    in_windows = np.einsum("mti,mtj->mij", windows, windows)[:, i, j]
    fano = in_windows.var(0, ddof=1) / in_windows.mean(0)
    assert pairs["fano_factor"] == pytest.approx(fano, abs=1e-9)
    of_documents = [fires[places[:, 1] == d].max(0) for d in np.unique(places[:, 1])]
    documents = np.stack(of_documents)
    assert pairs["documents_ij"].tolist() == (documents.T @ documents)[i, j].tolist()


def test_within_documents_firings_are_dealt_out_at_random(finished, fires):
    """Mean and variance over documents of the hypergeometric counts that scipy knows."""
    fires, places = fires
    pairs, _ = table(finished / "atlas", "pairs")
    which = np.argsort(-pairs["n_ij"])[:20]
    i, j = pairs["i"][which], pairs["j"][which]
    mean = variance = 0
    for document in np.unique(places[:, 1]):
        own = fires[places[:, 1] == document]
        found = hypergeom(len(own), own[:, i].sum(0), own[:, j].sum(0))
        mean, variance = mean + found.mean(), variance + np.nan_to_num(found.var())
    assert pairs["expected_in_documents"][which] == pytest.approx(mean)
    z = (pairs["n_ij"][which] - mean) / np.sqrt(variance)
    assert pairs["z_in_documents"][which] == pytest.approx(z)


def test_cosines_are_those_of_the_weights(finished):
    pairs, _ = table(finished / "atlas", "pairs")
    sae = load_sae(finished / "sae")
    i, j = torch.from_numpy(pairs["i"]).long(), torch.from_numpy(pairs["j"]).long()
    decoder = torch.cosine_similarity(sae.W_dec[i], sae.W_dec[j]).detach().numpy()
    encoder = torch.cosine_similarity(sae.W_enc.T[i], sae.W_enc.T[j]).detach().numpy()
    assert pairs["decoder_cosine"] == pytest.approx(decoder, abs=1e-5)
    assert pairs["encoder_cosine"] == pytest.approx(encoder, abs=1e-5)


def test_latents_are_those_of_a_dense_computation(finished, fires):
    fires, places = fires
    latents, _ = table(finished / "atlas", "latents")
    assert latents["n"].tolist() == fires.sum(0).tolist()
    assert latents["density"] == pytest.approx(fires.mean(0))
    windows = fires.reshape(-1, WINDOW, fires.shape[1]).sum(1)
    most = int(fires.sum(0).argmax())
    fano = windows[:, most].var(ddof=1) / windows[:, most].mean()
    assert latents["fano_factor"][most] == pytest.approx(fano)
    assert set(latents["top_token_ids"][most]) <= set(places[fires[:, most] > 0, 0])
    assert len(latents["top_tokens"][most]) == len(latents["top_token_ids"][most])


def test_the_nearest_are_the_nearest(finished):
    latents, _ = table(finished / "atlas", "latents")
    pairs, _ = table(finished / "atlas", "pairs")
    most = int(latents["n"].argmax())
    own = (pairs["i"] == most) | (pairs["j"] == most)
    by_phi = sorted(pairs["phi"][own], reverse=True)[: len(latents["nearest_phis"][most])]
    assert latents["nearest_phis"][most] == pytest.approx(by_phi)
    W_dec = torch.nn.functional.normalize(load_sae(finished / "sae").W_dec.detach())
    cosines = W_dec @ W_dec[most]
    cosines[most] = -1
    assert latents["nearest_cosines"][most] == pytest.approx(cosines.topk(10).values, abs=1e-5)
    assert latents["nearest_by_cosine"][most].tolist() == cosines.topk(10).indices.tolist()


def test_an_sae_from_elsewhere_needs_the_model_alone(finished, options, tmp_path):
    sae = Path(shutil.copytree(finished / "sae", tmp_path / "sae"))
    groups = ("model.", "activations.", "data")
    given = [o for o in options if o.startswith(groups)]
    main([str(sae), *OPTIONS, "model=hf", *given])
    for name in TABLES:
        assert content(sae / "atlas" / name) == content(finished / "atlas" / name)


def test_an_interrupted_pass_goes_on(finished, tmp_path, monkeypatch):
    """The same tables, and no token is read twice."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run / "atlas")
    encoded = []

    def encode(rows, *, last):
        encoded.append(rows)
        if sum(encoded) >= last:
            raise KeyboardInterrupt

    add = gathering.FiringsWriter.add
    monkeypatch.setattr(gathering, "SECONDS_BETWEEN_NOTES", -1.0)
    for last in (1000, 10**9):
        monkeypatch.setattr(
            gathering.FiringsWriter,
            "add",
            lambda self, rows, latents, last=last: [
                add(self, rows, latents),
                encode(len(rows), last=last),
            ],
        )
        if last == 1000:
            with pytest.raises(SystemExit, match="130"):
                main([str(run), *OPTIONS])
        else:
            main([str(run), *OPTIONS])
    for name in TABLES:
        assert content(run / "atlas" / name) == content(finished / "atlas" / name)
    assert sum(encoded) - TOKENS < 2 * max(encoded)
    assert {path.name for path in (run / "atlas").iterdir()} == TABLES | {
        "graph.graphml",
        "index.html",
        "site",
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "nowhere: there is no such folder"),
        (["--tokens=0"], "--tokens=0: must be a whole number of at least 1"),
        (["--tokens=2000000001"], "--tokens=2000000001: must be at most 2000000000"),
        (["--min-z=nan"], "--min-z=nan"),
        (["model.nmae=x"], "model.nmae"),
        (["--output=/dev/null"], "--output=/dev/null: must be a folder that can be written"),
        (["data=text_files"], "data.path"),
        (["activations.context_size=16"], "activations.context_size=16: the run's own activations"),
    ],
)
def test_mistakes_are_one_line(finished, capsys, words, told):
    folder = [] if words == ["nowhere"] else [str(finished)]
    with pytest.raises(SystemExit) as ended:
        main([*folder, *words])
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert told in err
    assert err.count("\n") == 1


def test_a_run_is_followed_over_another_text(finished, text_folder, tmp_path, capsys):
    text = ("data=text_files", f"data.path={text_folder}", "data.held_out_fraction=0")
    main([str(finished), f"--output={tmp_path / 'other'}", *OPTIONS, *text])
    said = " ".join(capsys.readouterr().out.split())
    assert "these are not the data that the SAE was trained on" in said
    ours, theirs = (
        content(f / "latents.parquet") for f in (tmp_path / "other", finished / "atlas")
    )
    assert ours != theirs


@pytest.mark.parametrize("window_size", [TOKENS * 10, 2**40])
def test_a_window_that_is_never_full_leaves_the_windows_alone_empty(
    finished, tmp_path, window_size
):
    output = tmp_path / "atlas"
    main([str(finished), f"--output={output}", *OPTIONS, f"--window-size={window_size}"])
    latents, facts = table(output, "latents")
    assert facts["n_windows"] == 0
    assert facts["n_tokens"] >= TOKENS
    assert np.isnan(latents["fano_factor"]).all()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("place", ["temporal_sae.atlas.firings.os.fsync", "os.posix_fallocate"])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    finished, tmp_path, monkeypatch, capsys, error, place
):
    def full(*arguments):
        raise OSError(error, os.strerror(error))

    output = tmp_path / "atlas"
    with monkeypatch.context() as patched, pytest.raises(SystemExit, match="2"):
        patched.setattr(place, full)
        main([str(finished), f"--output={output}", *OPTIONS])
    err = capsys.readouterr().err
    assert f"{output}: the disk is full" in err
    assert err.count("\n") == 1
    main([str(finished), f"--output={output}", *OPTIONS])
    assert content(output / PAIRS) == content(finished / "atlas" / PAIRS)


def test_a_folder_that_is_removed_meanwhile_is_one_line(finished, tmp_path, monkeypatch, capsys):
    output, add = tmp_path / "atlas", gathering.FiringsWriter.add

    def add_and_remove(self, rows, latents):
        shutil.rmtree(output, ignore_errors=True)
        add(self, rows, latents)

    monkeypatch.setattr(gathering.FiringsWriter, "add", add_and_remove)
    with pytest.raises(SystemExit, match="2"):
        main([str(finished), f"--output={output}", *OPTIONS])
    assert "the folder was removed while it was in use" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("reader", [{}, {"epoch": "x", "cursor": [], "waiting": None}, None, 3])
def test_a_place_in_the_text_that_is_none_is_one_line(finished, tmp_path, capsys, reader):
    output = tmp_path / "atlas"
    main([str(finished), f"--output={output}", *OPTIONS, "--keep-firings"])
    notes = Checkpoints(output / "firings", keep=1)
    notes.save(10 * TOKENS, (notes.load_newest() or {}) | {"reader": reader})
    with pytest.raises(SystemExit, match="2"):
        main([str(finished), f"--output={output}", f"--tokens={2 * TOKENS}"])
    assert f"remove {output / 'firings'} and begin again" in capsys.readouterr().err


def test_no_link_in_the_folder_is_written_through(finished, tmp_path):
    """A stranger's links lead to files that are not the atlas's."""
    target, output = tmp_path / "precious", tmp_path / "atlas"
    target.write_text("precious")
    (output / "firings").mkdir(parents=True)
    for name in (f".unfinished-{PAIRS}", PAIRS, "firings/dealt.bin"):
        (output / name).symlink_to(target)
    main([str(finished), f"--output={output}", *OPTIONS])
    assert target.read_text() == "precious"
    assert content(output / PAIRS) == content(finished / "atlas" / PAIRS)


def test_two_at_once_are_refused(finished, tmp_path, capsys):
    lock = ProcessLock(tmp_path / ".lock")
    lock.acquire()
    with pytest.raises(SystemExit, match="2"):
        main([str(finished), f"--output={tmp_path}"])
    lock.release()
    assert "another atlas is being built here" in capsys.readouterr().err


def test_what_is_no_atlas_is_said_in_one_line(tmp_path):
    with pytest.raises(RunError, match=r"latents\.parquet: is missing; python -m"):
        _ = Atlas(tmp_path).latents
    (tmp_path / "pairs.parquet").write_text("no table")
    with pytest.raises(RunError, match=r"pairs\.parquet: cannot be read"):
        _ = Atlas(tmp_path).pairs
    pq.write_table(pa.table({"latent": [0]}), tmp_path / "latents.parquet")
    with pytest.raises(RunError, match=r"was not written by temporal_sae\.atlas"):
        _ = Atlas(tmp_path).facts


def test_a_short_text_is_read_once(finished, tmp_path, capsys):
    """Its repetitions would make pairs of every pair of tokens that occurs once."""
    for n in range(6):
        words = " ".join(f"word {n} {m}" for m in range(300))
        (tmp_path / f"{n}.txt").write_text(words)
    output = tmp_path / "atlas"
    text = ["data=text_files", f"data.path={tmp_path}", "data.held_out_fraction=0.2"]
    main([str(finished), *text, f"--output={output}", "--tokens=1000000", "--window-size=1"])
    n_tokens = Atlas(output).facts["n_tokens"]
    printed = capsys.readouterr().out
    assert f"there are {n_tokens:,} tokens to read, fewer than 1,000,000" in printed
    whole = sum(Atlas(output).tokens["n"].to_pylist())
    assert TOKENS < whole == n_tokens
    documents = Atlas(output).examples["document"].to_numpy()
    assert documents.max() < 6
