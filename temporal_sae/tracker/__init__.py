"""Co-activation of pairs of latents: windows, running averages, weightings."""

from temporal_sae.tracker.statistics import PairStatistics
from temporal_sae.tracker.tracker import CoActivationTracker
from temporal_sae.tracker.transcript import NoTracker, TranscriptTracker
from temporal_sae.tracker.weightings import all_weightings, weighting

__all__ = [
    "CoActivationTracker",
    "NoTracker",
    "PairStatistics",
    "TranscriptTracker",
    "all_weightings",
    "weighting",
]
