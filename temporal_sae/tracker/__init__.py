"""Co-activation of pairs of latents: windows, running averages, weights."""

from temporal_sae.tracker.tracker import CoActivationTracker
from temporal_sae.tracker.transcript import NoTracker, TranscriptTracker
from temporal_sae.tracker.weights import WEIGHTINGS, Weighting

__all__ = ["WEIGHTINGS", "CoActivationTracker", "NoTracker", "TranscriptTracker", "Weighting"]
