"""SAEs that fit the stand-in models, and small sizes of every evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from temporal_sae.activations import Harvest, LanguageModel
from temporal_sae.data import TextFiles
from temporal_sae.eval import EvaluationFiles, Subject
from temporal_sae.eval.saebench import SAEBenchEvaluation
from temporal_sae.sae import SparseAutoencoder, StandardSAE, TopKSAE, load_sae
from tests.bench.standins.models import PYTHIA, WIDTH, directions

HOOK = "blocks.2.hook_resid_post"
SMALL: dict[str, dict[str, Any]] = {
    "core": {
        "batch_size_prompts": 8,
        "n_eval_reconstruction_batches": 3,
        "n_eval_sparsity_variance_batches": 6,
        "context_size": 64,
    },
    "sparse_probing": {
        "probe_train_set_size": 64,
        "probe_test_set_size": 32,
        "context_length": 32,
        "k_values": [1, 2, 5],
    },
    "scr": {
        "train_set_size": 64,
        "test_set_size": 32,
        "context_length": 32,
        "n_values": [2, 20],
        "probe_epochs": 5,
        "column1_vals_lookup": {
            "LabHC/bias_in_bios_class_set1": [["professor", "nurse"], ["architect", "journalist"]],
            "canrager/amazon_reviews_mcauley_1and5": [["Books", "CDs_and_Vinyl"]],
        },
    },
    "tpp": {
        "train_set_size": 64,
        "test_set_size": 32,
        "context_length": 32,
        "n_values": [2, 20],
        "probe_epochs": 5,
    },
    "absorption": {"max_k_value": 2, "k_sparse_probe_num_epochs": 10},
}


def toy_sae(d_sae: int = 256, k: int = 16) -> TopKSAE:
    """Latents for the letters and the topics, and others at random."""
    torch.manual_seed(0)
    sae = TopKSAE(WIDTH, d_sae, k)
    known = torch.cat(directions())
    rows = sae.W_dec.data
    rows[: len(known)] = known
    sae.W_enc.data = rows.clone().T
    return sae


def linear_sae(axes: torch.Tensor, mean: torch.Tensor) -> StandardSAE:
    """x̂ = mean + the projection of x - mean on orthonormal rows [n, WIDTH].

    Two latents an axis, one for each sign.
    """
    sae = StandardSAE(axes.shape[1], 2 * len(axes))
    both = torch.cat([axes, -axes])
    sae.W_dec.data, sae.W_enc.data = both, both.clone().T
    sae.b_enc.data.zero_()
    sae.b_dec.data = mean.clone()
    return sae


def subject(
    sae: SparseAutoencoder, folder: Path, hub: Path, name: str = PYTHIA, dtype: str = "float32"
) -> Subject:
    """The SAE saved below `folder`, with a stand-in model and a little text."""
    sae.save(folder / "sae")
    text = folder / "text"
    text.mkdir(exist_ok=True)
    for n in range(2):
        (text / f"{n}.txt").write_text("words " * 50)
    model = LanguageModel(str(hub / name), HOOK, dtype)
    return Subject(
        sae=load_sae(folder / "sae"),
        sae_folder=folder / "sae",
        source=Harvest(context_size=16, model=model, text=TextFiles(str(text))),
        files=EvaluationFiles(folder / "eval", {"sae": "one"}),
    )


def small_evaluation(hub: Path, *evals: str, name: str = PYTHIA, **options: Any):
    """SAEBench at the sizes above; `options` of an evaluation are added to those."""
    sizes = {key: {**SMALL[key], **options.pop(key, {})} for key in SMALL}
    return SAEBenchEvaluation(
        evals=evals, model_name=name, data_folder=str(hub), **sizes, **options
    )
