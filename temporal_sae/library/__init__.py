"""From activations to trained SAEs in one call: `from temporal_sae import train, train_many`."""

from temporal_sae.library.call import TrainedSAE
from temporal_sae.library.train import train, train_many

__all__ = ["TrainedSAE", "train", "train_many"]
