"""Activations that one run finds where another has left them."""

import pickle

import pytest
import torch
from safetensors.torch import save

from temporal_sae.activations import LanguageModel
from temporal_sae.activations.shared import VARIABLE, SharedActivations, shared_activations

TOKENS = torch.arange(512).reshape(16, 32)


class Counted:
    """Computes, and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return torch.randn(16, 32, 8)[:, :, ::2]


@pytest.fixture
def compute():
    return Counted()


def test_what_one_leaves_another_finds(tmp_path, compute):
    first = SharedActivations(tmp_path, "model").find_or_compute(TOKENS, compute)
    kept = first.clone()
    first.zero_()  # whoever gets them may change them
    second = SharedActivations(tmp_path, "model").find_or_compute(TOKENS, compute)
    assert compute.calls == 1
    assert second.equal(kept)


def test_other_tokens_shapes_models_and_threads_are_other_activations(tmp_path, compute):
    shared = SharedActivations(tmp_path, "model")
    shared.find_or_compute(TOKENS, compute)
    shared.find_or_compute(TOKENS + 1, compute)
    shared.find_or_compute(TOKENS.reshape(8, 64), compute)
    SharedActivations(tmp_path, "another").find_or_compute(TOKENS, compute)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        shared.find_or_compute(TOKENS, compute)
    finally:
        torch.set_num_threads(threads)
    assert compute.calls == 5


def test_few_tokens_are_computed(tmp_path, compute):
    shared = SharedActivations(tmp_path, "model")
    for _ in range(2):
        shared.find_or_compute(TOKENS[:1], compute)
    assert compute.calls == 2
    assert not list(tmp_path.iterdir())


def test_the_folder_has_a_limit(tmp_path, compute):
    one = Counted()().clone().nbytes
    shared = SharedActivations(tmp_path, "model", limit=2 * one + 5000)
    for n in (0, 1, 2, 0, 1, 2):
        shared.find_or_compute(TOKENS + n, compute)
    assert compute.calls == 4
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_gone_or_damaged_is_no_loss(tmp_path, compute):
    gone = SharedActivations(tmp_path / "gone", "model")
    assert gone.find_or_compute(TOKENS, compute).shape == (16, 32, 4)
    shared = SharedActivations(tmp_path, "model")
    whole = shared.find_or_compute(TOKENS, compute)
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    other = save({"activations": torch.zeros(3)})
    for n, damaged in enumerate((data[:100], b"", b"garbage", pickle.dumps(5), other, save({}))):
        file.write_bytes(damaged)
        again = shared.find_or_compute(TOKENS, compute)
        assert compute.calls == 3 + n
        assert again.shape == whole.shape
        assert shared.find_or_compute(TOKENS, compute).equal(again)
    file.unlink()
    file.mkdir()
    assert shared.find_or_compute(TOKENS, compute).shape == whole.shape
    assert list(tmp_path.iterdir()) == [file]


def test_a_model_looks_where_the_environment_says(tmp_path, random_gemma, small_model, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert shared_activations("model", torch.device("cuda")) is None
    hook = "blocks.1.hook_resid_post"
    models = [LanguageModel(str(random_gemma), hook) for _ in range(2)]
    expected, logits = small_model.activations(TOKENS), small_model.logits(TOKENS)
    for model in models:
        assert model.activations(TOKENS).equal(expected)
        assert model.logits(TOKENS).equal(logits)
        assert not model.logits(TOKENS, torch.zeros_like).equal(logits)
        monkeypatch.setattr(model, "model", None)  # from here on it cannot compute any
        assert model.activations(TOKENS).equal(expected)
        assert model.logits(TOKENS).equal(logits)
    other = LanguageModel(str(random_gemma), "blocks.0.hook_resid_post")
    assert not other.activations(TOKENS).equal(expected)
