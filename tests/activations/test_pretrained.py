"""Models that are not whole, do not fit their tokenizer, or bring code of their own."""

import json
import logging
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from temporal_sae.activations import LanguageModel
from temporal_sae.errors import InvalidOption

HOOK = "blocks.1.hook_resid_post"
CODE = "import pathlib, os\npathlib.Path(os.environ['MARK']).touch()\n"


@pytest.fixture
def folder(random_gemma, tmp_path, monkeypatch):
    """A copy of a whole model; reading from standard input fails."""
    monkeypatch.setattr(sys, "stdin", None)
    return shutil.copytree(random_gemma, tmp_path / "model")


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def without(*names):
    return lambda weights: {n: w for n, w in weights.items() if not n.endswith(names)}


def refusal(folder):
    with pytest.raises(InvalidOption) as refused:
        LanguageModel(str(folder), HOOK)
    assert refused.value.option == "name"
    assert str(refused.value).isprintable()
    return str(refused.value)


def test_the_command_line_refuses_missing_weights_in_one_line(folder, text_folder, command):
    change_weights(folder, without("up_proj.weight"))
    code, _, err = command("model=hf", f"model.name={folder}", f"model.hook_name={HOOK}")
    assert code == 2
    assert err == (
        f"error: model.name={str(folder)!r}: must be a model with all its weights (its files lack "
        "3 of 36, such as model.layers.0.mlp.up_proj.weight)\n"
    )


def test_weights_under_other_names_are_missing(folder):
    change_weights(folder, lambda weights: {f"x.{n}": w for n, w in weights.items()})
    said = "its files lack 36 of 36, such as lm_head.weight, and hold 35 that it does not know, "
    assert said + "such as x.model.embed_tokens.weight" in refusal(folder)


def test_weights_of_another_shape(folder):
    name = "model.layers.1.mlp.up_proj.weight"
    change_weights(folder, lambda weights: weights | {name: torch.ones(3, 16)})
    assert f"(1 do not; {name} has shape [3, 16], its config wants [32, 16])" in refusal(folder)


def test_surplus_weights_are_told_and_the_model_is_read(folder, caplog):
    change_weights(folder, lambda weights: weights | {"more": torch.ones(3)})
    with caplog.at_level(logging.WARNING):
        LanguageModel(str(folder), HOOK)
    assert caplog.messages == [
        f"model.name={str(folder)!r}: not used of its weights: 1, such as more"
    ]


def test_the_head_that_is_tied_to_the_embedding_is_not_missing(folder, small_model):
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    tokens = torch.arange(8).view(1, 8)
    assert torch.equal(LanguageModel(str(folder), HOOK).logits(tokens), small_model.logits(tokens))


DAMAGE = {
    "cut weights": lambda f: os.truncate(f / "model.safetensors", 5000),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "cut config": lambda f: os.truncate(f / "config.json", 40),
    "a list as config": lambda f: (f / "config.json").write_text("[]"),
    "no config": lambda f: (f / "config.json").unlink(),
    "a word as width": lambda f: change_json(f / "config.json", hidden_size="wide"),
    "no such type": lambda f: change_json(f / "config.json", model_type="none\x1b[31m"),
    "cut tokenizer": lambda f: os.truncate(f / "tokenizer.json", 400),
    "a pipe": lambda f: ((f / "config.json").unlink(), os.mkfifo(f / "config.json")),
    "a device": lambda f: (f / "more.json").symlink_to("/dev/zero"),
    "an endless file": lambda f: os.truncate(f / "config.json", 2**40),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_one_line(damage, folder):
    DAMAGE[damage](folder)
    assert refusal(folder)


def test_a_folder_without_a_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "a model with its tokenizer (whose files are missing)" in refusal(folder)


@pytest.mark.parametrize("name", ["", None, 3, "~nobody/x", "./x", "a\0b", "x" * 5000])
def test_what_is_no_name(name):
    with pytest.raises(InvalidOption):
        LanguageModel(name, HOOK)


# --- tokens without an embedding -----------------------------------------------------------------


def extend_tokenizer(folder, change):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    change(tokenizer)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "token"),
    [
        (lambda t: t.add_tokens(["more"]), "token 'more'"),
        (lambda t: t.add_special_tokens({"pad_token": "[PAD]"}), "pad token"),
        (lambda t: t.add_special_tokens({"bos_token": "[BOS]"}), "bos token"),
    ],
)
def test_a_token_without_an_embedding(change, token, folder):
    extend_tokenizer(folder, change)
    said = f"its {token} is number 2048, its embedding has 2048 rows"
    assert said in refusal(folder)


def test_a_special_token_that_no_text_becomes_may_lie_behind_the_embedding(folder):
    extend_tokenizer(folder, lambda t: t.add_tokens(["<image>"], special_tokens=True))
    assert len(LanguageModel(str(folder), HOOK).tokenizer) == 2049


# --- code that comes with a model ----------------------------------------------------------------


@pytest.fixture
def code(folder, tmp_path, monkeypatch):
    """Python beside the model that leaves a mark when it is run."""
    mark = tmp_path / "ran"
    monkeypatch.setenv("MARK", str(mark))
    (folder / "own.py").write_text(CODE)
    yield
    assert not mark.exists()


OWN = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}


@pytest.mark.usefixtures("code")
def test_a_model_that_needs_its_own_code_is_refused_in_one_line(folder, command):
    change_json(folder / "config.json", model_type="own", auto_map=OWN)
    code, _, err = command("model=hf", f"model.name={folder}", f"model.hook_name={HOOK}")
    assert code == 2
    assert err.endswith("(it needs Python code of its own (auto_map), which is never run)\n")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"auto_map": OWN}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.Slow", "own.Fast"]}}),
    ],
)
def test_code_beside_a_known_architecture_is_passed_over_and_told(file, changes, folder, caplog):
    change_json(folder / file, **changes)
    with caplog.at_level(logging.WARNING):
        LanguageModel(str(folder), HOOK)
    assert "its own code is not run; it is read as Gemma2ForCausalLM" in caplog.text


@pytest.mark.usefixtures("code")
def test_a_tokenizer_that_needs_its_own_code(folder):
    (folder / "tokenizer.json").unlink()
    change_json(
        folder / "tokenizer_config.json",
        tokenizer_class="Own",
        auto_map={"AutoTokenizer": ["own.Slow", None]},
    )
    assert "(auto_map), which is never run" in refusal(folder)


def test_a_kernel_named_by_a_config_is_not_fetched(folder):
    change_json(folder / "config.json", attn_implementation="someone/kernel")
    said = "attn_implementation='someone/kernel' is code of its own, which is never run"
    assert said in refusal(folder)
