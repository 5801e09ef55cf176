"""From activations to a trained SAE in one call: `from temporal_sae import train`."""

from temporal_sae.library.train import TrainedSAE, train

__all__ = ["TrainedSAE", "train"]
