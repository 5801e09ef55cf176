"""SAEBench's questions on the bundled model, with labelled data from the standard library."""

from temporal_sae.eval.tasks.absorption import Absorption
from temporal_sae.eval.tasks.downstream import Downstream
from temporal_sae.eval.tasks.evaluation import TasksEvaluation
from temporal_sae.eval.tasks.scr import SpuriousCorrelationRemoval
from temporal_sae.eval.tasks.snippets import SnippetOptions
from temporal_sae.eval.tasks.sparse_probing import SparseProbing
from temporal_sae.eval.tasks.tpp import TargetedProbePerturbation

__all__ = [
    "Absorption",
    "Downstream",
    "SnippetOptions",
    "SparseProbing",
    "SpuriousCorrelationRemoval",
    "TargetedProbePerturbation",
    "TasksEvaluation",
]
