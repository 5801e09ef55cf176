"""One run, from the composed config to its folder."""

from temporal_sae.experiment.run import run_experiment

__all__ = ["run_experiment"]
