"""SAEBench's evaluations that need something from outside: a function each, as in `entries`."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from temporal_sae.errors import RunError
from temporal_sae.eval.saebench import guards, needs
from temporal_sae.eval.saebench.adapter import SAEBenchSAE
from temporal_sae.eval.saebench.guards import Function, Record
from temporal_sae.eval.saebench.options import Job

ANSWERS = "autointerp_answers.jsonl"  # beside the log: outlives the working directory
RETRIES = 4
SMALLER = 4  # RAVEL's batches, since gradients take memory; the mask's training depends on it


def unlearning(job: Job, sae: SAEBenchSAE) -> Record:
    """Measure what the model forgets when the latents of one topic are clamped.

    The model answers multiple-choice questions on biology and on other subjects. The score is the
    largest share of the biology questions it no longer answers among the settings that leave at
    least 0.99 of the others right.
    """
    from sae_bench.evals.unlearning import main
    from sae_bench.evals.unlearning.utils import feature_activation

    own = ("model_name", "corpus", "question_ids")
    name, given = needs.instruct_model(job.model_name, job.options), job.options["question_ids"]
    corpus = Path(job.options["corpus"]).expanduser()
    guards.link(f"sae_bench/evals/unlearning/data/{needs.CORPUS}", corpus)
    private = Path("unlearning")  # also holds results that depend on the SAE
    questions = private / main.EVAL_TYPE / name / "data" / "question_ids"
    kept = Path(job.artifacts) / "question_ids"
    place_questions(Path(given).expanduser() if given else kept, questions)
    guards.replace(feature_activation, "load_dataset", by_new_name)
    guards.seed_everything(job.seed)
    config = guards.make_config(main.UnlearningEvalConfig, job, own, model_name=name)
    record = guards.run_loop(main.run_eval, config, job, sae, artifacts_path=str(private))
    if not given:
        place_questions(questions, kept)
    return record


def by_new_name(load: Function) -> Function:
    """Load data sets by the names that the hub takes today."""
    names = {"wikitext": "Salesforce/wikitext"}
    return lambda path, *args, **kwargs: load(names.get(path, path), *args, **kwargs)


def place_questions(source: Path, target: Path) -> None:
    """Copy the ids of the questions that the model knows, whatever the SAE, if all are there."""
    if len(needs.question_files(source)) == needs.QUESTION_FILES:
        shutil.copytree(source, target, dirs_exist_ok=True)


def autointerp(job: Job, sae: SAEBenchSAE) -> Record:
    """Measure how well an explanation of a latent predicts where it is active.

    A judge is shown texts on which a latent is active, explains it in a sentence, and is then asked
    which of some other texts it will be active on; the score is the share it is right about.
    """
    from sae_bench.evals.autointerp import main

    key, client = judge_with_memory(job, Path.cwd().parent / ANSWERS)
    main.OpenAI = lambda **_: client
    guards.replace(main.AutoInterp, "get_scoring_prompts", lambda f: drawn_by_content(f, job.seed))
    guards.replace(main.AutoInterp, "run", in_order)
    guards.seeded(main.AutoInterp, "__init__", job.seed)
    guards.seeded(main.AutoInterp, "gather_data", job.seed)
    own = ("base_url", "api_key_file", "judge", "temperature")
    config = guards.make_config(main.AutoInterpEvalConfig, job, own)
    more = {"api_key": key, "artifacts_path": job.artifacts}
    no_score = (
        "no latent is active often enough to be judged, or no answer of the judge was a list of "
        "numbers; lower eval.autointerp.dead_latent_threshold, raise eval.autointerp.total_tokens, "
        "or use another eval.autointerp.judge"
    )
    score = ("autointerp", "autointerp_score")
    return guards.run_loop(main.run_eval, config, job, sae, no_score, score, **more)


def judge_with_memory(job: Job, memory: Path) -> tuple[str, Any]:
    """Return the judge's key, and a client that asks it, whatever model is named, and remembers.

    Answers are kept as JSON lines: a run that was interrupted pays for none of them twice, and the
    same SAE gets the same score again, which judges do not grant even at temperature 0.
    """
    from openai import OpenAI

    url, key = needs.judge_of(job.options, os.environ)
    key = key or "none"  # for endpoints that need none
    ask = OpenAI(api_key=key, base_url=url, max_retries=RETRIES).chat.completions.create
    asked_as = {"model": job.options["judge"], "seed": job.seed}
    if job.options["temperature"] is not None:
        asked_as["temperature"] = job.options["temperature"]
    answers, lock = read_answers(memory), threading.Lock()

    def create(**request: Any) -> Any:  # called in several threads
        request |= asked_as
        asked = json.dumps([url, request], sort_keys=True)
        digest = hashlib.sha256(asked.encode()).hexdigest()
        if digest not in answers:
            texts = [choice.message.content or "" for choice in ask(**request).choices]
            with lock, memory.open("a") as file:
                file.write(json.dumps([digest, texts]) + "\n")
                answers[digest] = texts
        messages = [SimpleNamespace(content=text) for text in answers[digest]]
        return SimpleNamespace(choices=[SimpleNamespace(message=m) for m in messages])

    return key, SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))


def read_answers(memory: Path) -> dict[str, list[str]]:
    """Return answers by the hash of what was asked, without lines that were cut off."""
    answers: dict[str, list[str]] = {}
    for line in memory.read_text().splitlines() if memory.exists() else ():
        try:
            key, answers[key] = json.loads(line)
        except ValueError:
            continue
    return answers


def drawn_by_content(make_prompts: Function, seed: int) -> Function:
    """Draw a prompt's made-up answer by its texts, not in order of arrival."""

    def make(self: Any, explanation: str, scoring_examples: Any) -> Any:
        random.seed(f"{seed} {[example.toks for example in scoring_examples]}")
        return make_prompts(self, explanation, scoring_examples)

    return make


def in_order(judge_all: Function) -> Function:
    """Sort results by latent, not as answers arrive: the mean's last digits depend on it."""

    async def run(self: Any, *args: Any, **kwargs: Any) -> dict[int, Any]:
        return dict(sorted((await judge_all(self, *args, **kwargs)).items()))

    return run


def ravel(job: Job, sae: SAEBenchSAE) -> Record:
    """Measure whether latents separate the attributes of an entity.

    A mask over the latents is trained so that exchanging them between two prompts changes one
    attribute of the answer (cause) and leaves the others as they are (isolation).
    """
    from sae_bench.evals.ravel import instance, main, mdbm
    from sae_bench.sae_bench_utils import activation_collection
    from transformer_lens.loading_from_pretrained import get_official_model_name

    place_prompts(Path(job.artifacts) / "base")
    guards.seed_everything(job.seed)
    main.LLM_NAME_MAP[job.model_name] = get_official_model_name(job.model_name)
    guards.replace(activation_collection, "get_module", with_tuples)
    guards.replace(instance.RAVELInstance, "downsample_", lambda f: apart(f, job.seed))
    guards.replace(mdbm, "train_mdbm", with_frozen_model)
    batch_size = max(1, job.llm_batch_size // SMALLER)
    config = guards.make_config(main.RAVELEvalConfig, job, llm_batch_size=batch_size)
    guards.link(config.artifact_dir, Path(job.artifacts))
    no_score = (
        "the model answers too few prompts correctly for a batch to test with; raise "
        "eval.ravel.num_pairs_per_attribute, or lower eval.llm_batch_size"
    )
    score, more = ("ravel", "disentanglement_score"), {"artifacts_path": str(guards.RESULTS)}
    return guards.run_loop(main.run_eval, config, job, sae, no_score, score, **more)


def with_frozen_model(train_mask: Function) -> Function:
    """Train the mask alone: sae_bench collects gradients of the language model as well."""
    return lambda model, *args, **kw: train_mask(model.requires_grad_(False), *args, **kw)


def place_prompts(folder: Path) -> None:
    """Put the prompts where sae_bench looks before it downloads them.

    Its own download passes an argument that huggingface_hub has dropped.
    """
    (repository,) = needs.REPOSITORIES["ravel"]
    if Path(repository).is_dir():
        shutil.copytree(repository, folder, dirs_exist_ok=True)
    elif not any(folder.glob("ravel_*.json")):
        from huggingface_hub import snapshot_download

        snapshot_download(
            repository, repo_type="dataset", local_dir=folder, allow_patterns="*.json"
        )


def with_tuples(get_module: Function) -> Function:
    """Show hooks of a layer a tuple, as transformers 4 gave them one, and 5 does not."""

    def in_tuples(hook: Function) -> Function:
        def seen(module: Any, inputs: Any, outputs: Any) -> Any:
            if isinstance(outputs, tuple):
                return hook(module, inputs, outputs)
            changed = hook(module, inputs, (outputs,))
            return None if changed is None else changed[0]

        return seen

    def get(model: Any, number: int) -> Any:
        register = get_module(model, number).register_forward_hook
        return SimpleNamespace(register_forward_hook=lambda hook: register(in_tuples(hook)))

    return get


def apart(downsample: Function, seed: int) -> Function:
    """Sample prompts and leave the generator as it was: kept results skip the sampling."""

    def sample(self: Any, n: int) -> Any:
        before = random.getstate()
        random.seed(seed)
        try:
            return downsample(self, min(n, len(self.prompts)))
        finally:
            random.setstate(before)

    return sample


def sae_probes(job: Job, sae: SAEBenchSAE) -> Record:
    """Measure sparse probing on the 113 tasks that the sae-probes package brings along.

    Each has two classes and is learned from the k latents whose means differ most between them,
    read at the last token of a text; the probe on all activations stands beside it.
    """
    from sae_bench.evals.sparse_probing_sae_probes import main

    guards.seed_everything(job.seed)
    guards.replace(main, "run_sae_evals", where_sae_bench_looks)
    config = guards.make_config(main.SparseProbingSaeProbesEvalConfig, job)
    guards.link(config.model_cache_path, Path(job.artifacts))
    # sae-probes runs the language model in float32, whatever is asked for.
    sae = sae.to(device=job.device, dtype=torch.float32)
    record = guards.run_loop(main.run_eval, config, job, sae)
    if not record["eval_result_details"]:
        raise RunError("no data set gave a result")
    return record


def where_sae_bench_looks(run_sae_evals: Function) -> Function:
    """Give the results of binary latents the name of the others."""

    def run(*args: Any, results_path: str, **kwargs: Any) -> None:
        run_sae_evals(*args, results_path=results_path, **kwargs)
        for file in Path(results_path).rglob("*_binarized.json"):
            file.rename(file.with_stem(file.stem.removesuffix("_binarized")))

    return run
