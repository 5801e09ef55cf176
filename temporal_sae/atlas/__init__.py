"""Statistics of all latents and all pairs of any SAE over a text; see docs/atlas.md."""
