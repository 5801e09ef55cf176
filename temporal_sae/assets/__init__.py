"""Files that ship with the package: the bundled language model and the reference results."""

from pathlib import Path

TINY_MODEL = Path(__file__).parent / "tiny"
REFERENCE = Path(__file__).parent / "reference"
