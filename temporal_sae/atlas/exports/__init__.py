"""A finished atlas in the formats of other tools; see docs/atlas.md."""
