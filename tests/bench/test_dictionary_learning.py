"""We read what dictionary_learning writes, and both compute the same."""

import json

import pytest
import torch

from temporal_sae.errors import RunError
from temporal_sae.sae import (
    BatchTopKSAE,
    GatedSAE,
    JumpReLUSAE,
    MatryoshkaSAE,
    StandardSAE,
    TopKSAE,
    load_sae,
)

CLASSES = {
    "AutoEncoder": (StandardSAE, {}),
    "AutoEncoderNew": (StandardSAE, {}),
    "GatedAutoEncoder": (GatedSAE, {}),
    "JumpReluAutoEncoder": (JumpReLUSAE, {}),
    "AutoEncoderTopK": (TopKSAE, {"k": 8}),
    "BatchTopKSAE": (BatchTopKSAE, {"k": 8}),
    "MatryoshkaBatchTopKSAE": (MatryoshkaSAE, {"k": 8, "group_sizes": [32, 96, 128]}),
}


def randomized(dictionary):
    for parameter in dictionary.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    return dictionary


def write(folder, name, dictionary):
    """As its `trainSAE` does."""
    trainer = {"dict_class": name, "activation_dim": 32, "dict_size": 256}
    if hasattr(dictionary, "k"):
        trainer["k"] = dictionary.k.item()
    config = {"trainer": trainer, "buffer": {"io": "out", "ctx_len": 128}}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({k: v.cpu() for k, v in dictionary.state_dict().items()}, folder / "ae.pt")


@pytest.mark.parametrize("name", CLASSES)
def test_both_encode_and_decode_alike(name, dictionaries, compare, tmp_path):
    cls, options = CLASSES[name]
    dictionary = randomized(dictionaries[name](activation_dim=32, dict_size=256, **options))
    if cls in (BatchTopKSAE, MatryoshkaSAE):
        dictionary.threshold.fill_(0.8)
    write(tmp_path, name, dictionary)
    ours, x = load_sae(tmp_path), torch.randn(64, 32)
    assert type(ours) is cls
    compare(ours, dictionary.encode, dictionary.decode, x)
    assert torch.allclose(ours(x), dictionary(x), atol=1e-5)


def test_a_batchtopk_whose_threshold_training_has_not_reached(dictionaries, tmp_path):
    dictionary = randomized(dictionaries["BatchTopKSAE"](32, 256, k=8))
    write(tmp_path, "BatchTopKSAE", dictionary)
    with pytest.raises(RunError, match="threshold=-1 was never set"):
        load_sae(tmp_path)


def test_every_dictionary_class_there_is_has_been_considered(dictionaries):
    base = dictionaries["Dictionary"]
    found = {n for n, c in dictionaries.items() if isinstance(c, type) and issubclass(c, base)}
    assert found == {*CLASSES, "Dictionary", "IdentityDict"}
