"""Models and data sets small enough to make in a moment, by the names that SAEBench asks for."""

from __future__ import annotations

from pathlib import Path

from tests.bench.standins import texts
from tests.bench.standins.models import GEMMA, PYTHIA, build_gemma, build_pythia

# To be put on PYTHONPATH: TransformerLens fixes the sizes of Gemma-2 by its name.
SHIM = Path(__file__).parent / "shim"


def build_main(folder: Path, more_words: tuple[str, ...] = ()) -> Path:
    """What core, sparse probing, SCR, TPP and absorption need, on Pythia and on Gemma-2."""
    build_pythia(folder, more_words)
    build_gemma(folder, GEMMA, more_words)
    texts.openwebtext(folder)
    texts.bias_in_bios(folder)
    texts.amazon_reviews(folder)
    texts.ag_news(folder)
    texts.europarl(folder)
    texts.github_code(folder)
    return folder


__all__ = ["GEMMA", "PYTHIA", "SHIM", "build_gemma", "build_main", "build_pythia", "texts"]
