"""What SAEBench needs is said before any work is done: a line each, and all at once."""

import sys
from types import SimpleNamespace

import pytest

from temporal_sae.eval.saebench import needs
from tests.eval.saebench.conftest import MODELS
from tests.eval.saebench.plans import only, problems

probe = needs.probe.__wrapped__
pytestmark = pytest.mark.usefixtures("known")


def test_nothing_is_missing():
    assert problems("core", "scr", "tpp", "absorption", "ravel", "sae_probes") == []


def test_the_extra_is_missing(monkeypatch):
    monkeypatch.setattr(needs, "find_spec", lambda _: None)
    assert 'pip install -e ".[bench]"' in only(problems("core"))


def test_python_3_13(monkeypatch):
    newer = SimpleNamespace(version_info=(3, 13, 1, "final", 0), executable=sys.executable)
    monkeypatch.setattr(needs, "sys", newer)
    line = only(problems("core"))
    assert "3.13" in line and "3.12" in line and 'pip install -e ".[bench]"' in line


def test_an_extra_that_cannot_be_imported(monkeypatch):
    monkeypatch.setattr(needs, "probe", lambda: "RuntimeError: torchvision::nms does not exist")
    line = only(problems("core"))
    assert "pip uninstall torchvision" in line and "torchvision::nms" in line


def test_the_extra_is_asked_in_another_process(tmp_path, monkeypatch):
    for name in ("sae_bench", "sae_lens", "transformer_lens"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("print('noise', end='')")
    names = f"OFFICIAL_MODEL_NAMES = {list(MODELS)}\nMODEL_ALIASES = {MODELS}\n"
    (tmp_path / "transformer_lens" / "loading_from_pretrained.py").write_text(names)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert probe()["gpt2-small"] == "openai-community/gpt2"
    (tmp_path / "sae_lens" / "__init__.py").write_text("raise RuntimeError('no nms')")
    assert probe() == "RuntimeError: no nms"


@pytest.mark.parametrize("name", ["gemma-2-2b", "google/gemma-2-2b", "GPT2-small"])
def test_known_models(name):
    assert problems("core", model_name=name) == []


def test_an_unknown_model_is_told_the_nearest_ones():
    line = only(problems("core", "ravel", model_name="/models/gemma-2-2c"))
    assert line.startswith("model_name='/models/gemma-2-2c': must be one of the 2 models")
    assert line.index("google/gemma-2-2b") < line.index("openai-community/gpt2")


@pytest.mark.parametrize("hook", ["model.layers.3", "blocks.3.hook_mlp_out"])
def test_a_hook_that_is_none_of_transformer_lens(hook):
    line = only(problems("core", hook_name=hook))
    assert hook in line and "blocks.L.hook_resid_post" in line


def test_some_evaluations_read_behind_a_layer_only():
    before = {"hook_name": "blocks.3.hook_resid_pre"}
    assert problems("core", "sparse_probing", **before) == []
    assert "for absorption" in only(problems("core", "absorption", **before))


@pytest.mark.parametrize(
    ("evaluation", "option"),
    [
        ("scr", "n_values"),
        ("tpp", "n_values"),
        ("sparse_probing", "k_values"),
        ("sae_probes", "ks"),
    ],
)
def test_more_latents_than_the_sae_has(evaluation, option):
    assert problems(evaluation, options={option: [5, 20]}, d_sae=20) == []
    line = only(problems(evaluation, options={option: [5, 20]}, d_sae=19))
    assert line.startswith(f"{evaluation}.{option}=[5, 20]: must be at most 19 (d_sae)")


def test_as_many_channels_are_probed_as_latents():
    line = only(problems("sparse_probing", options={"k_values": [1, 100]}))
    assert "at most 64 (the width of the model)" in line


def test_the_word_is_where_absorption_reads():
    line = only(problems("absorption", options={"prompt_token_pos": -7}))
    assert line.startswith("absorption.prompt_token_pos=-7: must be -6")


def test_a_data_set_that_is_not_in_the_data_folder(tmp_path):
    (tmp_path / "cais" / "mmlu").mkdir(parents=True)
    assert "Skylion007/openwebtext" in only(problems("core", data_folder=tmp_path))
    lines = problems("unlearning", data_folder=tmp_path)
    line = next(line for line in lines if "data_folder" in line)
    assert "Salesforce/wikitext, cais/wmdp," in line and "hf download" in line


def test_the_hub_may_not_be_used():
    offline = {"HF_HUB_OFFLINE": "1"}
    assert "Skylion007/openwebtext is streamed" in only(problems("core", environment=offline))
    line = only(problems("sparse_probing", environment=offline))
    assert "codeparrot/github-code, Helsinki-NLP/europarl" in line and "eval.data_folder" in line
    assert problems("scr", "absorption", environment=offline) == []


def test_everything_that_is_missing_is_said_at_once(monkeypatch):
    monkeypatch.setattr(needs, "find_spec", lambda _: None)
    lines = problems("scr", "unlearning", d_sae=100)
    assert lines[0] == "SAEBench needs 3 things:"
    assert 'pip install -e ".[bench]"' in lines[1]
    assert lines[2].startswith("  2. eval.scr.n_values=")
    assert lines[3].startswith("  3. eval.unlearning.corpus=")
