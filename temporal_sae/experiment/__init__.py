"""One run, from the composed config to its folder."""

from temporal_sae.experiment.together import (
    Ending,
    Request,
    run_experiment,
    run_together,
    stream_of,
)

__all__ = ["Ending", "Request", "run_experiment", "run_together", "stream_of"]
