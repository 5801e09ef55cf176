"""One job of whole_job.py in a process of its own: `python benchmarks/whole_job_child.py JSON`.

Nothing of either package is imported for the other, as each one's imports are part of its job.
The file `first_forward` in the job's folder is touched when the language model first runs.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

LAUNCH = Path(__file__).resolve().parents[1] / "launch.py"
NEVER = 10**9  # steps or tokens


def note_first_forward(folder: Path) -> None:
    """Touch the file once any module runs; from then on nothing is in the way."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    def noted(module: Any, inputs: Any) -> None:
        handle.remove()
        (folder / "first_forward").touch()

    handle = register_module_forward_pre_hook(noted)


def ours(job: dict[str, Any]) -> None:
    """Run `launch.py`, with one value of k or, as a sweep, with several."""
    import temporal_sae  # noqa: F401 - before torch: its threads then sleep here as in a command

    note_first_forward(Path(job["folder"]))
    ks = ",".join(map(str, job["ks"]))
    kind = "sweep" if len(job["ks"]) > 1 else "run"
    method = [] if job["method"] else ["tracker=off", "loss.ortho_weight=0"]
    overrides = {
        f"hydra.{kind}.dir": f"{job['folder']}/saved",
        "device": "cpu",
        "seed": job["seed"],
        "model": "hf",
        "model.name": job["model"],
        "model.hook_name": f"blocks.{job['layer']}.hook_resid_post",
        "data": "hub",
        "data.name": job["text"],
        "data.held_out_fraction": 0,
        "activations.context_size": job["context"],
        "activations.lm_batch_size": job["sequences"],
        "activations.buffer_tokens": job["buffer"],
        "activations.exclude": "[]",
        "activations.normalize": "false",
        "activations.prefetch": "false",
        "sae.d_sae": job["d_sae"],
        "sae.k": ks,
        "trainer.num_tokens": job["tokens"],
        "trainer.batch_size": job["batch"],
        "trainer.lr": job["lr"],
        "trainer.warmup_steps": job["warmup"],
        "trainer.decay_fraction": job["decay"],
        "trainer.dead_after_tokens": NEVER,
        "trainer.log_every": NEVER,
        "trainer.checkpoint_every": NEVER,
        "eval": "none",
    }
    words = [f"{key}={value}" for key, value in overrides.items()]
    sys.argv = [str(LAUNCH), *(["-m"] if kind == "sweep" else []), *words, *method]
    sys.path[0] = str(LAUNCH.parent)
    runpy.run_path(str(LAUNCH), run_name="__main__")


def saelens(job: dict[str, Any]) -> None:
    """Run SAELens's runner for one SAE, or for several with one value of k each."""
    import torch
    from sae_lens import (
        LanguageModelSAERunnerConfig,
        LanguageModelSAETrainingRunner,
        LoggingConfig,
        MultiSAETrainingRunner,
        MultiSAETrainingRunnerConfig,
        TopKTrainingSAEConfig,
    )

    note_first_forward(Path(job["folder"]))
    steps = job["tokens"] // job["batch"]
    torch.manual_seed(job["seed"])  # nothing else fixes its initial weights
    saes = {
        f"k_{k}": TopKTrainingSAEConfig(d_in=job["d_in"], d_sae=job["d_sae"], k=k, **job["topk"])
        for k in job["ks"]
    }
    options: dict[str, Any] = {
        "model_name": job["model"],
        "model_class_name": "AutoModelForCausalLM",
        "dataset_path": str(Path(job["text"]).parent),
        "context_size": job["context"],
        "store_batch_size_prompts": job["sequences"],
        "n_batches_in_buffer": job["buffer"] // job["context"],  # it counts sequences
        "training_tokens": steps * job["batch"],
        "train_batch_size_tokens": job["batch"],
        "lr": job["lr"],
        "lr_warm_up_steps": job["warmup"],
        "lr_decay_steps": round(job["decay"] * steps),
        "dead_feature_window": NEVER,
        "seed": job["seed"],
        "device": "cpu",
        "logger": LoggingConfig(log_to_wandb=False),
        "checkpoint_path": None,
        "output_path": f"{job['folder']}/saved",
    }
    hook = f"gpt_neox.layers.{job['layer']}"
    if len(saes) > 1:
        several = MultiSAETrainingRunnerConfig(saes=saes, hook_names=hook, **options)
        MultiSAETrainingRunner(several).run()
        return
    (sae,) = saes.values()
    one = LanguageModelSAERunnerConfig(
        sae=sae, hook_name=hook, is_dataset_tokenized=False, verbose=False, **options
    )
    LanguageModelSAETrainingRunner(one).run()


def main() -> None:
    job = json.loads(sys.argv[1])
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    ours(job) if job["package"] == "ours" else saelens(job)


if __name__ == "__main__":
    main()
