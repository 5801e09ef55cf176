"""Stand-ins of what the extra installs, to test what is said where something is missing."""

import sys

import pytest

from temporal_sae.eval.saebench import needs_install

MODELS = {"google/gemma-2-2b": ["gemma-2-2b"], "openai-community/gpt2": ["gpt2", "gpt2-small"]}


@pytest.fixture
def extra(tmp_path, monkeypatch):
    """Stand-ins of the extra's packages, since the base install has none of them."""
    folder = tmp_path / "packages"
    sources = {
        "sae_bench": "raise AssertionError('nothing of the extra is imported')",
        "sae_lens": "raise AssertionError",
        "transformer_lens": "raise AssertionError",
        "sae_probes": "raise AssertionError",
    }
    for name, source in sources.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    (folder / "transformer_lens" / "supported_models.py").write_text(
        f"OFFICIAL_MODEL_NAMES: list[str] = {list(MODELS)}\n"
        f"MODEL_ALIASES: dict[str, list[str]] = {MODELS}\n"
        "DEFAULT_MODEL_ALIASES = [MODEL_ALIASES[name][0] for name in OFFICIAL_MODEL_NAMES]\n"
    )
    monkeypatch.syspath_prepend(folder)
    needs_install.known_models.cache_clear()
    needs_install.torchvision_failure.cache_clear()
    yield folder
    needs_install.known_models.cache_clear()
    needs_install.torchvision_failure.cache_clear()
