"""A store of activations: a folder of shuffled shards, built once and read by many runs."""

from temporal_sae.activations.store.source import ActivationStore

__all__ = ["ActivationStore"]
