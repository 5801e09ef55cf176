"""Text sources and packed token windows."""

from temporal_sae.data.packing import TokenWindows
from temporal_sae.data.sources import HubText, Split, StdlibText, TextFiles, TextSource

__all__ = ["HubText", "Split", "StdlibText", "TextFiles", "TextSource", "TokenWindows"]
