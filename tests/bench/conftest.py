"""The packages of others, for the tests that compare with them; skipped where one is missing."""

import os

import pytest
import torch

from benchmarks.peer_imports import enter_dictionary_learning

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")  # read when sparsify is imported


@pytest.fixture(scope="session")
def dictionaries():
    """The dictionary classes of dictionary_learning by name."""
    try:
        enter_dictionary_learning()
    except ModuleNotFoundError:
        pytest.skip("dictionary-learning is not installed (benchmarks/requirements-peers.txt)")
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    modules = (dictionary, batch_top_k, matryoshka_batch_top_k, top_k)
    return {name: cls for module in modules for name, cls in vars(module).items()}


@pytest.fixture
def compare():
    """Whether two SAEs, ours first, encode and decode alike."""

    def alike(ours, encode, decode, x):
        with torch.no_grad():
            acts = encode(x)
            acts = acts.to_dense() if acts.is_sparse else acts
            assert (acts > 0).any()
            assert torch.allclose(ours.encode_dense(x), acts, atol=1e-5)
            assert torch.allclose(ours(x), decode(acts), atol=1e-5)
            assert torch.allclose(ours.decode(ours.encode(x)), decode(acts), atol=1e-5)

    return alike
