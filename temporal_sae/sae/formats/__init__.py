"""Folders that this package and others write, each in the terms of `SparseAutoencoder`.

A module here, or a plug-in, announces its `Format` by `component("format")(Format(…))`.
"""

from temporal_sae.sae.formats.stored import Format, Stored

__all__ = ["Format", "Stored"]
