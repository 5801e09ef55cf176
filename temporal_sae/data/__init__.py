"""Text sources and packed token sequences."""

from temporal_sae.data.documents import Document, Piece
from temporal_sae.data.hub import HubText
from temporal_sae.data.kinds import KINDS, USUAL, are_of, check_kinds
from temporal_sae.data.mixture import MixtureText
from temporal_sae.data.packing import TokenSequences, is_text
from temporal_sae.data.sources import Split, TextSource
from temporal_sae.data.text_files import StdlibText, TextFiles

__all__ = [
    "KINDS",
    "USUAL",
    "Document",
    "HubText",
    "MixtureText",
    "Piece",
    "Split",
    "StdlibText",
    "TextFiles",
    "TextSource",
    "TokenSequences",
    "are_of",
    "check_kinds",
    "is_text",
]
