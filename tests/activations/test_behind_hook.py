"""A second pass that begins at the hook gives what the whole pass gives, to the bit."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from temporal_sae.activations import LanguageModel
from temporal_sae.errors import InvalidOption
from tests.activations.tiny_models import FAMILIES, save_model

TOKENS = torch.arange(2, 50).view(2, 24)
PLACES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")
CAUSAL = [family for family in FAMILIES if family != "bert"]


@pytest.fixture(scope="module", params=[*CAUSAL, "tiny"])
def model(tmp_path_factory, request):
    """A model of three layers, or the bundled one."""
    name = request.param
    if name == "tiny":
        return LanguageModel("tiny", "blocks.1.hook_resid_post")
    layers = {"gpt2": "n_layer"}.get(name, "num_hidden_layers")
    changes = {layers: 3}
    if name == "gemma3_with_images":
        changes = {"text_config": FAMILIES[name][1]["text_config"] | changes}
    folder = save_model(tmp_path_factory.mktemp(name), name, **changes)
    return LanguageModel(str(folder), "blocks.1.hook_resid_post")


def text_layers(model):
    path = model.at("blocks.0.hook_resid_post").point.path
    return model.model.get_submodule(path.rpartition(".")[0])


def path_of(model, module):
    return next(name for name, m in model.model.named_modules() if m is module)


def runs(model, action):
    """Return for each layer how often its MLP has run during `action`, and the result of that."""
    layers = text_layers(model)
    counts = [0] * len(layers)

    def ran(n, *_):
        counts[n] += 1

    handles = [x.mlp.register_forward_hook(partial(ran, n)) for n, x in enumerate(layers)]
    try:
        return counts, action()
    finally:
        for handle in handles:
            handle.remove()


def some(hidden):
    """Return other activations at some tokens, as an evaluation does."""
    replaced = torch.arange(hidden.shape[1])[None, :, None] % 3 > 0
    return torch.where(replaced, hidden * 0.5 + 1, hidden)


def same(model, first_layer):
    """Assert that the second pass is right and runs the layers from `first_layer` on alone."""
    logits, behind = model.plain_pass(TOKENS)
    assert torch.equal(logits, model.logits(TOKENS))
    for edit in (some, torch.zeros_like, torch.clone, some):
        expected = model.logits(TOKENS, edit)
        counts, found = runs(model, lambda e=edit: behind(e))
        assert torch.equal(found, expected)
        assert counts == [int(n >= first_layer) for n in range(model.n_layers)]
    assert torch.equal(behind(torch.clone), logits)
    assert not torch.equal(behind(some), logits)
    assert torch.equal(model.logits(TOKENS), logits)  # all layers run again


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("place", PLACES)
def test_places_by_their_names(model, layer, place):
    if place == "resid_mid" and getattr(model.model.config, "use_parallel_residual", False):
        pytest.skip("nothing lies between attention and MLP")
    same(model.at(f"blocks.{layer}.hook_{place}"), layer + (place == "resid_post"))


def test_modules_of_a_layer_and_their_inputs(model):
    layers = text_layers(model)
    path = path_of(model, layers)
    same(model.at(f"{path}.1"), 2)
    same(model.at(f"{path}.1.input"), 1)
    same(model.at(f"{path}.1.mlp"), 1)
    same(model.at(f"{path}.2.mlp.input"), 2)


def test_a_place_outside_of_all_layers_takes_the_whole_pass(model):
    embedding = path_of(model, model.model.get_input_embeddings())
    same(model.at(embedding), 0)


# --- models that need more of the layers before than the stream ----------------------------------


@pytest.fixture
def llama(tmp_path):
    """A model of three layers, read before the last one."""
    folder = save_model(tmp_path, "llama", num_hidden_layers=3)
    return LanguageModel(str(folder), "blocks.2.hook_resid_pre")


def test_a_layer_that_reads_what_an_earlier_one_has_left(llama):
    first, _, last = text_layers(llama)
    left = {}
    first.mlp.register_forward_hook(lambda _, args, out: left.update(out=out))
    last.mlp.register_forward_hook(lambda _, args, out: out + left.pop("out"))
    same(llama, 0)


def test_a_layer_that_is_changed_by_what_an_earlier_one_has_left(llama):
    first, _, last = text_layers(llama)
    left = []
    first.mlp.register_forward_hook(lambda _, args, out: left.append(out))
    last.mlp.register_forward_hook(lambda _, args, out: out + (left.pop() if left else 0))
    same(llama, 0)


def test_a_layer_that_returns_more_than_the_stream(llama):
    before, last = text_layers(llama)[1:]
    forward = before.forward
    before.forward = lambda *args, **kwargs: (forward(*args, **kwargs), torch.ones(()))
    last.register_forward_pre_hook(lambda _, args: (args[0][0], *args[1:]))
    same(llama, 0)
    before.forward = lambda *args, **kwargs: (forward(*args, **kwargs), None)
    same(llama.at("blocks.2.hook_resid_mid"), 2)


def test_a_layer_that_writes_into_the_stream_it_reads(llama):
    text_layers(llama)[2].register_forward_pre_hook(lambda _, args: (args[0].add_(1), *args[1:]))
    same(llama, 0)


def test_passes_of_two_threads_are_not_in_each_others_way(llama):
    """A model that is read at several places is used by threads that read ahead."""
    other = llama.at("blocks.0.hook_resid_post")
    logits, behind = llama.plain_pass(TOKENS)
    expected, activations = behind(some), other.activations(TOKENS)

    def elsewhere():
        return [(other.activations(TOKENS), other.logits(TOKENS)) for _ in range(20)]

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(elsewhere)
        assert all(torch.equal(behind(some), expected) for _ in range(60))
    assert all(torch.equal(x, activations) and torch.equal(y, logits) for x, y in found.result())


# --- where the weights are -----------------------------------------------------------------------


def test_weights_that_wait_in_their_files_come_with_the_first_pass(tmp_path):
    folder = save_model(tmp_path, "llama", num_hidden_layers=3)
    model = LanguageModel(str(folder), "blocks.0.hook_resid_post", "bfloat16")
    assert model.bytes_before_hook() < model.nbytes()
    same(model, 1)


def test_a_model_spread_over_the_devices_there_are(tmp_path):
    pytest.importorskip("accelerate")
    folder = save_model(tmp_path, "llama", num_hidden_layers=3)
    spread = LanguageModel(str(folder), "blocks.1.hook_resid_post", device_map="auto")
    same(spread, 2)


def test_a_model_without_a_head_is_refused(tmp_path):
    model = LanguageModel(str(save_model(tmp_path, "bert")), "blocks.0.hook_resid_post")
    with pytest.raises(InvalidOption, match="a causal language model"):
        model.plain_pass(TOKENS)
