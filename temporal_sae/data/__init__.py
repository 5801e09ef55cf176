"""Text sources and packed token windows."""

from temporal_sae.data.hub import HubText
from temporal_sae.data.packing import TokenWindows, is_text
from temporal_sae.data.sources import Split, TextSource
from temporal_sae.data.text_files import StdlibText, TextFiles

__all__ = ["HubText", "Split", "StdlibText", "TextFiles", "TextSource", "TokenWindows", "is_text"]
