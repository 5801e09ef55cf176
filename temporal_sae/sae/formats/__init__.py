"""Folders that this package and others write, each in the terms of `SparseAutoencoder`."""

from temporal_sae.sae.formats import dictionary_learning, sae_lens, sparsify
from temporal_sae.sae.formats.stored import Format, Stored

FORMATS: tuple[Format, ...] = (sae_lens.FORMAT, dictionary_learning.FORMAT, sparsify.FORMAT)

__all__ = ["FORMATS", "Format", "Stored"]
