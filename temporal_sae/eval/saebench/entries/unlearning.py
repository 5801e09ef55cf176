"""Unlearning: what the model forgets when the latents of one topic are clamped.

The model answers multiple-choice questions on biology (WMDP) and on four other subjects (MMLU)
while latents that are frequent on the forget corpus and rare on ordinary text are clamped to a
negative value. The score is the largest share of the biology questions it no longer answers among
the settings that leave at least 0.99 of the others right.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temporal_sae.errors import RunError
from temporal_sae.eval.saebench import guards
from temporal_sae.eval.saebench.entries.config import make_config
from temporal_sae.eval.saebench.needs_outside import CORPUS, instruct_model, question_files

if TYPE_CHECKING:
    from temporal_sae.eval.saebench.adapter import SAEBenchSAE
    from temporal_sae.eval.saebench.work import Job

OWN_OPTIONS = ("model_name", "corpus", "question_ids")
PRIVATE = Path("unlearning")  # holds results that depend on the SAE
RESULTS = Path("records")
WHERE_SAEBENCH_LOOKS = Path("sae_bench/evals/unlearning/data") / CORPUS
MOVED = {"wikitext": "Salesforce/wikitext"}  # names that the hub no longer takes


def run(job: Job, sae: SAEBenchSAE) -> dict[str, Any]:
    """SAEBench's record.

    Raises:
        RunError: there is a subject of which the model knows no answer.
    """
    from sae_bench.evals.unlearning import main
    from sae_bench.evals.unlearning.utils import feature_activation, metrics

    name = instruct_model(job.model_name, job.options)
    place_corpus(Path(job.options["corpus"]).expanduser())
    questions = PRIVATE / main.EVAL_TYPE / name / "data" / "question_ids"
    kept = Path(job.artifacts) / "question_ids"
    given = job.options["question_ids"]
    place_questions(Path(given).expanduser() if given else kept, questions)
    guards.replace(feature_activation, "load_dataset", by_new_name)
    guards.replace(metrics, "get_output_probs_abcd", lambda answers: unless_empty(answers, name))
    guards.seed_everything(job.seed)
    theirs = {key: value for key, value in job.options.items() if key not in OWN_OPTIONS}
    config = make_config(main.UnlearningEvalConfig, replace(job, options=theirs), model_name=name)
    main.run_eval(
        config,
        [(job.sae_set, sae)],
        job.device,
        str(RESULTS),
        force_rerun=True,
        artifacts_path=str(PRIVATE),
    )
    if job.keep_artifacts and not given:
        place_questions(questions, kept)
    return guards.only_record(RESULTS)


def place_corpus(corpus: Path) -> None:
    """Link the corpus to where sae_bench opens it, below the working directory."""
    WHERE_SAEBENCH_LOOKS.parent.mkdir(parents=True, exist_ok=True)
    WHERE_SAEBENCH_LOOKS.unlink(missing_ok=True)
    WHERE_SAEBENCH_LOOKS.symlink_to(corpus.resolve())


def place_questions(source: Path, target: Path) -> None:
    """Copy the ids of the questions that the model knows, if all are there.

    The ids are the model's, not the SAE's: finding them takes longer than the rest.
    """
    if all((source / file).is_file() for file in question_files()):
        for file in question_files():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, target / file)


def by_new_name(load_dataset: Callable[..., Any]) -> Callable[..., Any]:
    """`load_dataset`, for names that data sets have had."""

    def load(path: str, *args: Any, **kwargs: Any) -> Any:
        return load_dataset(MOVED.get(path, path), *args, **kwargs)

    return load


def unless_empty(answers: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`answers`, with an error that says what it means that there are no questions."""

    def ask(model: Any, prompts: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        if not prompts:
            raise RunError(
                f"unlearning: {name} answers no question of some subject in all 24 orders of the "
                "choices, so that nothing can be forgotten; use a larger model, or give "
                "eval.unlearning.question_ids"
            )
        return answers(model, prompts, *args, **kwargs)

    return ask
