"""What one evaluation of SAEBench is told, as it crosses to the subprocess that runs it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from temporal_sae.files import write_json

RESULT = "result.json"

# The evaluations by the names they have here, in the order in which they run.
EVALUATIONS = (
    "core",
    "sparse_probing",
    "scr",
    "tpp",
    "absorption",
    "unlearning",
    "autointerp",
    "ravel",
    "sae_probes",
)


@dataclass(frozen=True)
class Job:
    """One evaluation of one SAE.

    Attributes:
        evaluation: one of EVALUATIONS.
        sae_folder: read by `load_sae`.
        sae_set: what SAEBench calls the release, `MODEL_layer_L_sae`.
        architecture: what is written into SAEBench's `sae_cfg_dict`.
        model_name: as TransformerLens knows it.
        hook_name: `blocks.L.hook_resid_post` or another hook of TransformerLens.
        layer: L.
        prepend_bos: whether windows of text begin with BOS.
        device: of the model and the SAE.
        llm_dtype: of both.
        llm_batch_size: texts in one forward pass.
        seed: fixes everything that is random.
        options: of the evaluation, by SAEBench's names.
        artifacts: folder for activations and probes, of this configuration alone.
        keep_artifacts: other SAEs will read them; otherwise they need not be written.
        result: file that receives SAEBench's JSON.
    """

    evaluation: str
    sae_folder: str
    sae_set: str
    architecture: str
    model_name: str
    hook_name: str
    layer: int
    prepend_bos: bool
    device: str
    llm_dtype: str
    llm_batch_size: int
    seed: int
    options: dict[str, Any]
    artifacts: str
    keep_artifacts: bool
    result: str

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Job:
        """Read what `save` has written."""
        return cls(**json.loads(path.read_text()))

    def located(self, work: Path, artifacts: Path) -> Job:
        """The same job with its folders.

        Args:
            work: working directory, where the result goes.
            artifacts: for what does not depend on the SAE.
        """
        return replace(self, artifacts=str(artifacts), result=str(work / RESULT))
