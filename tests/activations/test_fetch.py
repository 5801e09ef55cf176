"""Fetching brings a config's names on the hub into a folder; checking tells what is missing."""

import shlex
import shutil
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest
from datasets import Dataset
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from temporal_sae.activations import __main__ as commands
from temporal_sae.activations import check, fetch
from temporal_sae.data.readers import Rows

MODEL, TEXT = "somebody/small", "somebody/texts"
NAMED = ["model=hf", f"model.name={MODEL}", "model.hook_name=blocks.1.hook_resid_post"]
NAMED += ["data=hub", f"data.name={TEXT}", "eval=none", "activations.context_size=32"]


class Hub:
    """Answers as the hub does for what it has; notes what is downloaded."""

    def __init__(self, folders):
        self.folders, self.downloads, self.refusal = folders, [], None

    def model_info(self, name, **_):
        if self.refusal:
            raise self.refusal(
                f"403 for {name}", response=SimpleNamespace(headers={}, request=None)
            )
        files = [path for path in self.folders[name].iterdir() if path.is_file()]
        siblings = [SimpleNamespace(rfilename=p.name, size=p.stat().st_size) for p in files]
        return SimpleNamespace(siblings=siblings)

    dataset_info = model_info

    def snapshot_download(self, name, *, local_dir, allow_patterns, **_):
        self.downloads.append(name)
        local_dir.mkdir(parents=True, exist_ok=True)
        for path in self.folders[name].iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, local_dir)


@pytest.fixture
def hub(monkeypatch, tmp_path, random_gemma):
    """A hub with a model, a text of fifty rows, and the data sets of SAEBench's core."""
    source = tmp_path / "on_the_hub"
    shutil.copytree(random_gemma, source)
    (source / "pytorch_model.bin").write_bytes(b"a pickle")
    (source / "modeling.py").write_text("raise SystemExit('code of its own')")
    made = Hub({MODEL: source, "Skylion007/openwebtext": source})
    rows = Dataset.from_dict({"text": [f"words of document {n} " * 40 for n in range(50)]})

    def open_rows(name, subset, split, streaming, patience):
        return Rows(rows.to_iterable_dataset(), False, ("text",), True)

    monkeypatch.setattr(fetch, "HfApi", lambda: made)
    monkeypatch.setattr(fetch, "snapshot_download", made.snapshot_download)
    monkeypatch.setattr(fetch, "open_rows", open_rows)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: rows)
    for module in (fetch, check):
        monkeypatch.setattr(module, "why_unreachable", lambda: None)
    monkeypatch.setattr(check, "auth_check", lambda *_, **__: None)
    return made


@pytest.fixture
def call(capsys):
    """Calls the command; returns (exit code, its lines, what it complains of)."""

    def run(*arguments):
        code = 0
        try:
            commands.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        told = capsys.readouterr()
        return code, told.out.splitlines(), told.err

    return run


def overrides_in(line):
    """The overrides of the command that is printed."""
    words = shlex.split(line.split(": ", 1)[1])
    return [word for word in words if "=" in word]


@pytest.mark.parametrize("documents", [None, 20])
def test_what_is_fetched_is_used_without_a_network(hub, call, monkeypatch, tmp_path, documents):
    few = [] if documents is None else ["--documents", documents]
    code, lines, complaint = call("fetch", tmp_path / "own", *few, *NAMED)
    assert code == 0, complaint
    monkeypatch.setattr(check, "why_unreachable", lambda: "no network")
    typed = [*overrides_in(lines[-1]), "sae.d_sae=64"]
    code, lines, complaint = call("check", *typed, "--load")
    assert (code, [line.split()[0] for line in lines]) == (0, ["ok"] * 4), complaint
    n_rows = sum(1 for _ in rows_in(typed))
    assert n_rows == (documents or 50)


def rows_in(overrides):
    from datasets import load_from_disk

    (folder,) = [o.partition("=")[2] for o in overrides if o.startswith("data.name=/")]
    return load_from_disk(folder)


def test_only_what_is_read_of_a_model_is_fetched_and_only_once(hub, call, tmp_path):
    call("fetch", tmp_path / "own", *NAMED)
    found = {path.name for path in (tmp_path / "own" / "hub" / MODEL).iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= found
    assert not found & {"pytorch_model.bin", "modeling.py"}
    assert call("fetch", tmp_path / "own", *NAMED)[0] == 0
    assert hub.downloads == [MODEL]
    (tmp_path / "own" / "hub" / MODEL / "config.json").unlink()
    call("fetch", tmp_path / "own", *NAMED)
    assert hub.downloads == [MODEL, MODEL]


def test_the_data_sets_of_saebench_lie_beside_the_model(hub, call, tmp_path):
    named = [o for o in NAMED if o != "eval=none"]
    code, lines, _ = call("fetch", tmp_path / "own", *named, "eval=saebench_core")
    assert code == 0
    typed = overrides_in(lines[-1])
    folder = tmp_path / "own" / "hub"
    assert f"eval.data_folder={folder}" in typed and f"eval.model_name={MODEL}" in typed
    assert (folder / "Skylion007/openwebtext").is_dir() and (folder / MODEL).is_dir()
    code, lines, _ = call("check", *typed)
    assert not [line for line in lines if line.startswith("missing")]


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (GatedRepoError, "somebody/small: is gated; accept its terms at https://huggingface.co/"),
        (RepositoryNotFoundError, "somebody/small: is no model on the hub, or a private one"),
    ],
)
def test_what_the_hub_does_not_give_is_one_line(hub, call, tmp_path, refusal, told):
    hub.refusal = refusal
    code, _, complaint = call("fetch", tmp_path / "own", *NAMED)
    assert code == 2
    assert complaint.startswith(f"error: {told}") and "hf auth login" in complaint
    assert complaint.count("\n") == 1


def test_without_a_network_nothing_is_fetched(hub, call, monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "why_unreachable", lambda: "no network")
    code, _, complaint = call("fetch", tmp_path / "own", *NAMED)
    assert code == 2 and "cannot be reached (no network)" in complaint


def test_what_is_local_needs_no_fetching(hub, call, tmp_path):
    code, lines, _ = call("fetch", tmp_path / "own")
    assert (code, lines[-1]) == (0, "nothing to fetch: this config names nothing on the hub")
    assert not (tmp_path / "own").exists()


def test_what_is_not_there_is_told_with_the_command_that_brings_it(hub, call):
    code, lines, _ = call("check", *NAMED)
    missing = [line for line in lines if line.startswith("missing")]
    assert code == 2
    assert [line.split(":")[0].split(None, 1)[1] for line in missing] == [f"model {MODEL}", "text"]
    for line in missing:
        assert "temporal_sae.activations fetch FOLDER model=hf" in line
    online = call("check", *NAMED, "--online")[1]
    assert online[0] == f"ok        model {MODEL}: can be had from the hub"


def cut_off(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def without_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


def without_weights(folder):
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("damage", [cut_off, without_tokenizer, without_weights])
def test_a_model_that_is_not_whole_is_missing(call, random_gemma, tmp_path, damage):
    shutil.copytree(random_gemma, tmp_path / "model")
    overrides = [
        "model=hf",
        f"model.name={tmp_path}/model",
        NAMED[2],
        "activations.context_size=32",
    ]
    assert call("check", *overrides)[0] == 0
    damage(tmp_path / "model")
    code, lines, _ = call("check", *overrides)
    assert code == 2
    assert lines[0].startswith(f"missing   model {tmp_path}/model: {tmp_path}/model: is not whole")


def test_a_full_disk_is_missing(call, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    code, lines, _ = call("check")
    assert code == 2
    assert [line for line in lines if line.startswith("missing   disk: ")]


def test_options_that_are_wrong_are_one_line(call):
    code, _, complaint = call("check", "sae.k=0")
    assert code == 2 and complaint.startswith("error: sae.k=0: must be")
