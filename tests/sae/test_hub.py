"""Uploading to the Hub, with an interface that notes what it is asked for instead."""

import json
import logging
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.experiment import run as experiment
from temporal_sae.experiment import run_experiment
from temporal_sae.experiment.build import build_cheap
from temporal_sae.sae import StandardSAE, TopKSAE, hub, load_sae

CONF = Path(__file__).parents[2] / "conf"


class Recorder:
    """Stands for HfApi."""

    def __init__(self, readme_there=False, failure=None):
        self.readme_there, self.failure, self.calls = readme_there, failure, []

    def create_repo(self, repo_id, **options):
        if self.failure:
            raise self.failure
        self.calls.append(("create", repo_id, options))
        return f"https://hub/{repo_id}"

    def file_exists(self, repo_id, name):
        return self.readme_there

    def upload_folder(self, **options):
        self.calls.append(("upload", options["repo_id"], options))


@pytest.fixture
def api(monkeypatch):
    def install(**options):
        recorder = Recorder(**options)
        monkeypatch.setattr(hub, "HfApi", lambda: recorder)
        return recorder

    return install


@pytest.fixture
def folder(tmp_path):
    metadata = {"model_name": "google/gemma-2-2b", "hook_name": "blocks.12.hook_resid_post"}
    TopKSAE(6, 24, k=4).save(tmp_path / "sae", metadata)
    return tmp_path / "sae"


def test_creates_a_private_repository_and_uploads_the_files(api, folder):
    recorder = api()
    assert hub.push_to_hub(folder, "me/my-sae") == "https://hub/me/my-sae"
    (_, repo, created), (_, _, uploaded) = recorder.calls
    assert (repo, created) == ("me/my-sae", {"private": True, "exist_ok": True})
    assert uploaded["folder_path"] == folder
    assert set(uploaded["allow_patterns"]) == {p.name for p in folder.iterdir()}
    assert 'load_sae(snapshot_download("me/my-sae"))' in (folder / "README.md").read_text()
    load_sae(folder)


def test_a_readme_is_never_replaced(api, folder):
    api(readme_there=True)
    hub.push_to_hub(folder, "me/my-sae")
    assert not (folder / "README.md").exists()
    (folder / "README.md").write_text("mine")
    api()
    hub.push_to_hub(folder, "me/my-sae", private=False, path_in_repo="layer_12")
    assert (folder / "README.md").read_text() == "mine"


def test_the_card_tells_what_the_config_knows(folder):
    config = json.loads((folder / "cfg.json").read_text())
    card = hub.model_card(config, "me/my-sae", "layer_12")
    assert card.startswith("---\nlibrary_name: saelens\n")
    assert "base_model: google/gemma-2-2b\n" in card
    shown = ("| latents | 24 |", "| active latents per token | 4 |", "blocks.12.hook_resid_post")
    for line in shown:
        assert line in card
    assert 'snapshot_download("me/my-sae") + "/layer_12")' in card
    assert "sae_lens" in card
    assert "sae_lens" not in hub.model_card({"architecture": "lista"})
    assert "base_model" not in hub.model_card({"metadata": {"model_name": "/home/me/model"}})
    assert "base_model" not in hub.model_card({"metadata": {"model_name": str(CONF)}})


@pytest.mark.parametrize("repo_id", ["", "my-sae", "a/b/c", "me/.sae", "me/a--b", "me/a.git", 3])
def test_what_is_no_repository(repo_id, api, folder):
    recorder = api()
    with pytest.raises(InvalidOption, match="such as me/my-sae"):
        hub.push_to_hub(folder, repo_id)
    assert not recorder.calls


def test_failures_are_one_line(api, folder):
    api(failure=ConnectionError("no network\nand more"))
    with pytest.raises(RunError, match=r"^me/x: could not be uploaded to \(no network\)$"):
        hub.push_to_hub(folder, "me/x")
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(RunError, match=r"holds no sae_weights\.safetensors"):
        hub.push_to_hub(folder, "me/x")
    (folder / "cfg.json").unlink()
    with pytest.raises(RunError, match=r"cfg\.json: cannot be read"):
        hub.push_to_hub(folder, "me/x")


def test_the_command_line(api, folder, capsys):
    recorder = api()
    hub.main([str(folder), "me/my-sae", "--public"])
    assert capsys.readouterr().out == "https://hub/me/my-sae\n"
    assert recorder.calls[0][2]["private"] is False
    with pytest.raises(SystemExit) as stop:
        hub.main([str(folder), "nobody"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: repo_id='nobody': must be ")


def test_a_failed_upload_says_how_to_repeat_it(api, tmp_path, caplog):
    api(failure=ConnectionError("no network"))
    folder = tmp_path / "with space" / "sae"
    StandardSAE(6, 24).save(folder)
    with caplog.at_level(logging.INFO):
        experiment.upload(folder, "me/my-sae")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    command = record.getMessage().split("to repeat it: ")[1]
    assert shlex.split(command)[1:] == ["-m", "temporal_sae.sae.hub", str(folder), "me/my-sae"]


def composed(repo_id, *more):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"push_to_hub={repo_id}", *more])


def test_a_wrong_name_is_told_before_anything_is_loaded(tmp_path):
    with pytest.raises(InvalidOption, match="push_to_hub='nobody': must be a repository"):
        build_cheap(composed("nobody"), tmp_path)


QUICK = (
    *("trainer.num_tokens=512", "trainer.batch_size=256", "trainer.warmup_steps=0"),
    *("sae.d_sae=16", "sae.k=2"),
    *("activations.context_size=32", "activations.buffer_tokens=512", "tracker.window_size=200"),
    *("eval=none", "model.hook_name=blocks.1.hook_resid_post"),
)


@pytest.mark.parametrize("failure", [None, ConnectionError("no network")])
def test_a_run_uploads_once_it_is_finished(failure, api, random_gemma, tmp_path):
    recorder = api(failure=failure)
    cfg = composed("me/my-sae", f"model.name={random_gemma}", *QUICK)
    run_experiment(cfg, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    uploads = [options for kind, _, options in recorder.calls if kind == "upload"]
    expected = [] if failure else [tmp_path / "run" / "sae"]
    assert [options["folder_path"] for options in uploads] == expected


def test_nothing_is_uploaded_unasked(api, random_gemma, tmp_path):
    recorder = api()
    cfg = composed("null", f"model.name={random_gemma}", *QUICK)
    run_experiment(cfg, tmp_path / "run")
    assert not recorder.calls
