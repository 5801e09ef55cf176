"""Statistics of all latents and all pairs of any SAE over a text; see docs/atlas.md."""

from temporal_sae.atlas.folder import Atlas

__all__ = ["Atlas"]
