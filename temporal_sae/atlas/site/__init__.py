"""Static pages of an atlas: every latent and every pair, in a browser and without a server."""

from temporal_sae.atlas.site.explanations import write_explanations
from temporal_sae.atlas.site.write import rewrite_latents, write_site

__all__ = ["rewrite_latents", "write_explanations", "write_site"]
