"""The answer that the extra's packages would give, since the base install has none of them."""

import pytest

from temporal_sae.eval.saebench import needs

MODELS = {"google/gemma-2-2b": ["gemma-2-2b"], "openai-community/gpt2": ["gpt2", "gpt2-small"]}


@pytest.fixture
def known(monkeypatch):
    """The models that TransformerLens would know."""
    names = {alias: name for name, aliases in MODELS.items() for alias in (name, *aliases)}
    monkeypatch.setattr(needs, "probe", lambda: names)
    monkeypatch.setattr(needs, "find_spec", lambda name: name)
