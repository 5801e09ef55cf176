"""Files that ship with the package: bundled language model, reference results, style of pages."""

from pathlib import Path

TINY_MODEL = Path(__file__).parent / "tiny"
REFERENCE = Path(__file__).parent / "reference"
PAGE = Path(__file__).parent / "page"
