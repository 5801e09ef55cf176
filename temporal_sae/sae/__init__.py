"""Sparse autoencoders: one file an architecture, one sparse interface, one folder format."""

from temporal_sae.sae.base import SparseAutoencoder, StepContext, StepOutput
from temporal_sae.sae.batch_topk import BatchTopKSAE
from temporal_sae.sae.gated import GatedSAE
from temporal_sae.sae.jumprelu import JumpReLUSAE
from temporal_sae.sae.lista import ListaSAE
from temporal_sae.sae.loading import load_sae
from temporal_sae.sae.matryoshka import MatryoshkaSAE
from temporal_sae.sae.standard import StandardSAE
from temporal_sae.sae.topk import TopKSAE

__all__ = [
    "BatchTopKSAE",
    "GatedSAE",
    "JumpReLUSAE",
    "ListaSAE",
    "MatryoshkaSAE",
    "SparseAutoencoder",
    "StandardSAE",
    "StepContext",
    "StepOutput",
    "TopKSAE",
    "load_sae",
]
