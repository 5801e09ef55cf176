"""Autointerp: how well a language model's explanation of a latent predicts where it is active.

A judge is shown texts on which a latent is active, explains it in a sentence, and is then asked
which of some other texts it will be active on; the score is the share it is right about.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from temporal_sae.errors import RunError
from temporal_sae.eval.saebench import guards
from temporal_sae.eval.saebench.entries.config import make_config
from temporal_sae.eval.saebench.needs_outside import judge_key, judge_url

if TYPE_CHECKING:
    from temporal_sae.eval.saebench.adapter import SAEBenchSAE
    from temporal_sae.eval.saebench.work import Job

OWN_OPTIONS = ("base_url", "api_key_file", "judge", "temperature")
RESULTS = Path("records")
RETRIES = 4
ANSWERS = "autointerp_answers.jsonl"  # beside the log: outlives the working directory
NO_KEY = "none"  # what endpoints are told that ask for none


def run(job: Job, sae: SAEBenchSAE) -> dict[str, Any]:
    """SAEBench's record; `eval_result_unstructured` has each latent's explanation and score.

    Raises:
        RunError: no latent could be judged.
    """
    from sae_bench.evals.autointerp import main

    judge = Judge(job, Path(job.result).resolve().parents[1] / ANSWERS)
    main.OpenAI = judge.client
    guards.replace(main.AutoInterp, "get_scoring_prompts", lambda f: drawn_by_content(f, job.seed))
    guards.replace(main.AutoInterp, "run", in_order)
    guards.seeded(main.AutoInterp, "__init__", job.seed)
    guards.seeded(main.AutoInterp, "gather_data", job.seed)
    theirs = {key: value for key, value in job.options.items() if key not in OWN_OPTIONS}
    config = make_config(main.AutoInterpEvalConfig, replace(job, options=theirs))
    main.run_eval(
        config,
        [(job.sae_set, sae)],
        job.device,
        judge.key,
        str(RESULTS),
        force_rerun=True,
        artifacts_path=job.artifacts,
    )
    record = guards.only_record(RESULTS)
    if not math.isfinite(record["eval_result_metrics"]["autointerp"]["autointerp_score"]):
        raise RunError(
            "autointerp: no latent is active often enough to be judged, or no answer of the judge "
            "was a list of numbers; lower eval.autointerp.dead_latent_threshold, raise "
            "eval.autointerp.total_tokens, or use another eval.autointerp.judge"
        )
    return record


class Judge:
    """The client that sae_bench asks, with another model, address and memory than its own.

    Answers are kept: a run that was interrupted pays for none of them twice, and the same SAE gets
    the same score again, which judges do not grant even at temperature 0.

    Args:
        job: of the evaluation.
        memory: file of JSON lines, one an answer.
    """

    def __init__(self, job: Job, memory: Path) -> None:
        from openai import OpenAI

        options = job.options
        self.url = judge_url(options, os.environ)
        self.key = judge_key(options, os.environ) or NO_KEY
        self._asked_as: dict[str, Any] = {"model": options["judge"], "seed": job.seed}
        if options["temperature"] is not None:
            self._asked_as["temperature"] = options["temperature"]
        self._ask = OpenAI(
            api_key=self.key, base_url=self.url, max_retries=RETRIES
        ).chat.completions.create
        self._memory = memory
        self._answers = read_answers(memory)
        self._lock = threading.Lock()

    def client(self, **_: Any) -> Any:
        """Takes the place of OpenAI's client."""
        return SimpleNamespace(
            chat=SimpleNamespace(completions=SimpleNamespace(create=self.create))
        )

    def create(self, **request: Any) -> Any:
        """An answer, from memory if this was asked before; sae_bench asks in several threads."""
        request |= self._asked_as
        asked = json.dumps([self.url, request], sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()
        if key not in self._answers:
            choices = self._ask(**request).choices
            self._remember(key, [choice.message.content or "" for choice in choices])
        messages = [SimpleNamespace(content=text) for text in self._answers[key]]
        return SimpleNamespace(choices=[SimpleNamespace(message=m) for m in messages])

    def _remember(self, key: str, texts: list[str]) -> None:
        with self._lock:
            self._answers[key] = texts
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            with self._memory.open("a") as file:
                file.write(json.dumps([key, texts]) + "\n")


def read_answers(memory: Path) -> dict[str, list[str]]:
    """Answers by the hash of what was asked; a last line that was cut off is passed over."""
    answers: dict[str, list[str]] = {}
    if memory.exists():
        for line in memory.read_text().splitlines():
            try:
                key, texts = json.loads(line)
            except ValueError:
                continue
            answers[key] = texts
    return answers


def drawn_by_content(make_prompts: Callable[..., Any], seed: int) -> Callable[..., Any]:
    """Scoring prompts whose made-up answer is drawn from the texts, not in order of arrival."""

    def make(self: Any, explanation: str, scoring_examples: Any) -> Any:
        tokens = [example.toks for example in scoring_examples]
        random.seed(f"{seed} {tokens}")
        return make_prompts(self, explanation, scoring_examples)

    return make


def in_order(judge_all: Callable[..., Any]) -> Callable[..., Any]:
    """Results by latent, not as answers arrive: the mean's last digits depend on it."""

    async def run(self: Any, *args: Any, **kwargs: Any) -> dict[int, Any]:
        return dict(sorted((await judge_all(self, *args, **kwargs)).items()))

    return run
