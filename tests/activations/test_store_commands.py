"""`python -m temporal_sae.activations`, and runs on stores from the command line."""

import json
import os
import shutil
import time

import pytest

from temporal_sae.activations.__main__ import main
from temporal_sae.sae import load_sae
from tests.activations.stores import HOOK, reader

SMALL = [
    *("activations.num_tokens=1500", "activations.held_out_tokens=300"),
    *("activations.dtype=float32", "activations.context_size=16"),
    *("activations.shard_rows=200", "activations.mixing_rows=500"),
    *("data=text_files", "data.held_out_fraction=0.3", "device=cpu"),
]
RUN = [
    *("activations.buffer_tokens=256", "sae.d_sae=64", "sae.k=4", "trainer.num_tokens=2048"),
    *("trainer.batch_size=128", "trainer.warmup_steps=2", "tracker.window_size=200"),
    *("eval.n_reconstruction_sequences=8", "eval.n_sparsity_sequences=8"),
]


@pytest.fixture
def origin(random_gemma, text_folder):
    return [
        *("model=hf", f"model.name={random_gemma}", f"model.hook_name={HOOK}"),
        f"data.path={text_folder}",
    ]


@pytest.fixture
def call(capsys):
    """Runs the command; returns (exit code, stdout, stderr)."""

    def run(*words):
        code = 0
        try:
            main([*map(str, words)])
        except SystemExit as stop:
            code = stop.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture
def store(tmp_path, call, origin):
    folder = tmp_path / "stores" / "one"
    code, out, err = call("build", f"activations.path={folder}", *SMALL, *origin)
    assert (code, err) == (0, "")
    assert "1,500 rows of 16 float32" in out
    assert out.rstrip().endswith("finished")
    return folder


def test_list_tells_of_every_store(store, call):
    second = shutil.copytree(store, store.with_name("two"))
    (second / "segment-000001.json").unlink()
    (store.parent / "other").mkdir()
    (store.parent / "other" / "manifest.json").write_text("{}")  # of something else
    code, out, _ = call("list", store.parent)
    lines = sorted(out.splitlines())
    assert code == 0
    assert len(lines) == 2
    assert "blocks.1.hook_resid_post · mixed over 1" in lines[0]
    assert lines[0].endswith("finished")
    assert lines[1].endswith("unfinished (2 of 3 segments)")
    (second / "manifest.json").write_text("{")
    assert "cannot be read" in call("list", second)[1]
    assert "no stores" in call("list", store.parent / "other")[1]


def test_verify_names_what_is_damaged(store, call):
    assert call("verify", store)[0] == 0
    path = store / "train-000001-0001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    (store / "held_out-000000.safetensors").unlink()
    (store / "segment-000002.json").unlink()
    code, _, err = call("verify", store)
    assert code == 3
    assert err.splitlines() == [
        f"error: {store}/held_out-000000.safetensors: it is missing",
        f"error: {path}: its checksum is another",
        f"error: {store}: is unfinished: 2 of 3 segments are there",
    ]


def test_verify_tells_of_a_damaged_record_of_held_out_shards(store, call):
    (store / "held_out.json").write_text("{")
    code, _, err = call("verify", store)
    assert code == 3
    assert err.startswith(f"error: {store}/held_out.json: cannot be read (")
    assert err.count("\n") == 1


def test_prune_deletes_what_was_used_longest_ago_and_nobody_uses(store, call):
    second = shutil.copytree(store, store.with_name("two"))
    mine = store / "mine.txt"
    mine.write_text("mine")
    old = time.time() - 10 * 86400
    os.utime(store / "manifest.json", (old, old))
    size = sum(path.stat().st_size for path in second.iterdir())
    for words in (("--older-than", 9), ("--keep-bytes", 1.5 * size)):
        code, out, _ = call("prune", store.parent, *words)
        assert code == 0
        assert out.count("would be deleted") == 1
        assert f"would be deleted: {store}:" in out
        assert (store / "manifest.json").exists()
    source = reader(store)
    source.open()
    os.utime(store / "manifest.json", (old, old))
    assert "in use" in call("prune", store.parent, "--older-than", 9, "--yes")[1]
    assert (store / "manifest.json").exists()
    source._in_use.close()
    assert call("prune", store.parent, "--older-than", 9, "--yes")[1] == f"deleted: {store}\n"
    assert [*store.iterdir()] == [mine]
    assert second.exists()
    assert "nothing to delete" in call("prune", store.parent, "--older-than", 9)[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build"], "activations.path: has no value yet"),
        (["build", "activations.path=none"], "holds no store; with model=NAME data=NAME"),
        (["build", "activations=harvest"], "activations='harvest': must be store"),
        (["build", "activations.path=none", "activations.rows=3"], "rows"),
        (["list", "none"], "none: there is no such folder"),
        (["verify", "none"], "none: holds no store"),
        (["prune", "none"], "prune: needs --keep-bytes"),
        (["prune", "none", "--keep-bytes", "-1"], "--keep-bytes"),
        (["what"], "invalid choice: 'what'"),
        ([], "required"),
    ],
)
def test_mistakes_are_one_line(call, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*words)
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def outcome(folder):
    record = json.loads((folder / "results.json").read_text())
    core = next(value for name, value in record.items() if name.startswith("core evaluation"))
    return load_sae(folder / "sae").W_dec, core["metrics"]


def test_a_run_builds_its_store_and_another_reads_it(command, tmp_path, origin, call):
    """The SAE is the same whoever has built the store, and whether there is a model."""
    path = f"activations.path={tmp_path / 'store'}"
    outcomes = []
    for name, words in {"built": [*SMALL, *origin], "read": [], "again": []}.items():
        folder = tmp_path / name
        options = ["activations=store", path, *words, *RUN, "device=cpu", "seed=1"]
        code, out, err = command(*options, f"hydra.run.dir={folder}")
        assert code == 0, err
        assert ("leaves out eval=core" in out) == (name != "built")
        outcomes.append(outcome(folder))
    (built, with_model), (read, without), (again, _) = outcomes
    assert built.equal(read)
    assert built.equal(again)
    assert "model_performance_preservation" in with_model
    assert "model_performance_preservation" not in without
    for group in ("reconstruction_quality", "sparsity"):
        assert with_model[group] == without[group]
    config = json.loads((tmp_path / "read/sae/cfg.json").read_text())
    assert HOOK in json.dumps(config)


def test_what_does_not_go_with_a_store_is_one_line(command, origin, store):
    options = ["activations=store", f"activations.path={store}", *RUN]
    other = [*origin, "data=text_files", "data.held_out_fraction=0.2"]
    for words, message in (
        (["tracker.stream=ordered"], "tracker.stream='ordered': must be shuffled"),
        (["activations.dtype=int8"], "activations.dtype='int8': must be float32 or null"),
        (other, "data.held_out_fraction=0.3, and not 0.2"),
        (["eval=core"], "eval=core needs a language model, and a store is read without"),
    ):
        code, _, err = command(*options, *words)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
