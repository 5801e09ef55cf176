"""Static pages of an atlas: every latent and every pair, in a browser and without a server."""

from temporal_sae.atlas.site.explanations import write_explanations
from temporal_sae.atlas.site.write import write_site

__all__ = ["write_explanations", "write_site"]
