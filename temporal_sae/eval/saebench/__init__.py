"""SAEBench, run by sae_bench's own code."""

from temporal_sae.eval.saebench.evaluation import SAEBenchEvaluation

__all__ = ["SAEBenchEvaluation"]
