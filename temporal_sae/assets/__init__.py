"""Files that ship with the package: bundled language models, reference results, style of pages."""

from pathlib import Path

TINY_MODEL = Path(__file__).parent / "tiny"
BUNDLED = {"tiny": TINY_MODEL}
REFERENCE = Path(__file__).parent / "reference"
PAGE = Path(__file__).parent / "page"
