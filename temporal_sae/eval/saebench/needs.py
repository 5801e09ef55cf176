"""What SAEBench's evaluations need, checked before any work is done.

Nothing of the extra is imported here: packages are looked for, their files read, and what the
session has loaded already, such as the tokenizer, is asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval.saebench.explain import explain
from temporal_sae.eval.saebench.needs_data import absent_problems, offline_problems, row_problems
from temporal_sae.eval.saebench.needs_install import installation_problems, model_problems
from temporal_sae.eval.saebench.needs_outside import (
    Problem,
    autointerp_problems,
    ravel_problems,
    sae_probes_problems,
    unlearning_problems,
)
from temporal_sae.eval.saebench.needs_vocabulary import vocabulary_problems
from temporal_sae.eval.saebench.options import RECORDED

__all__ = ["check", "explain"]

GROUP = "eval"
HOOK = re.compile(r"blocks\.\d+\.hook_resid_(pre|post)")
AFTER_A_LAYER = ("absorption", "ravel")  # read hook_resid_post whatever the SAE's hook is
COUNTS = {  # options that hold numbers of latents
    "sparse_probing": "k_values",
    "scr": "n_values",
    "tpp": "n_values",
    "absorption": "max_k_value",
    "unlearning": "n_features_list",
    "sae_probes": "ks",
}
ALSO_CHANNELS = ("k_values",)  # as many channels of the activations are probed
PROJECTIONS = 10  # latents that absorption looks at for each word


@dataclass(frozen=True)
class _Plan:
    evaluations: Sequence[str]
    options: Mapping[str, Mapping[str, Any]]
    model_name: str
    hook_name: str
    d_in: int
    d_sae: int
    tokenizer: Any
    data_folder: Path | None
    environment: Mapping[str, str]


def check(
    evaluations: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    *,
    model_name: str,
    hook_name: str,
    d_in: int,
    d_sae: int,
    tokenizer: Any,
    data_folder: str | Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Refuse what could not be evaluated, everything that is missing at once.

    Args:
        evaluations: names in EVALUATIONS.
        options: of each evaluation, by SAEBench's names.
        model_name: for TransformerLens.
        hook_name: place that the SAE reads.
        d_in: width of the activations.
        d_sae: number of latents.
        tokenizer: of the language model, as transformers loads it.
        data_folder: holds data sets as ORG/NAME; None if they come from the hub.
        environment: variables of the process.

    Raises:
        InvalidOption: one option is wrong; the option's name is relative to the group `eval`.
        RunError: something else is missing, or several things are, a line each.
    """
    folder = None if data_folder is None else Path(data_folder).expanduser()
    plan = _Plan(
        evaluations, options, model_name, hook_name, d_in, d_sae, tokenizer, folder, environment
    )
    problems = list(_problems(plan))
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = (f"  {n}. {_told(problem)}" for n, problem in enumerate(problems, start=1))
        raise RunError("\n".join([f"SAEBench needs {len(problems)} things:", *lines]))


def _told(problem: Problem) -> str:
    within = problem.within(GROUP) if isinstance(problem, InvalidOption) else problem
    return str(within)


def _problems(plan: _Plan) -> Iterator[Problem]:
    yield from installation_problems()
    unknown = list(model_problems(plan.model_name))
    yield from unknown
    yield from _hook_problems(plan)
    for evaluation in plan.evaluations:
        options = plan.options.get(evaluation, {})
        yield from _count_problems(plan, evaluation, options)
        yield from _of_one(plan, evaluation, options, known=not unknown)
        if plan.data_folder is None:
            yield from offline_problems(evaluation, options, plan.environment)
        else:
            yield from absent_problems(evaluation, options, plan.data_folder)
            yield from row_problems(evaluation, options, plan.data_folder)


def _of_one(
    plan: _Plan, evaluation: str, options: Mapping[str, Any], known: bool
) -> Iterator[Problem]:
    """What one evaluation alone needs."""
    if evaluation == "absorption":
        yield from vocabulary_problems(plan.tokenizer, options)
    elif evaluation == "unlearning":
        yield from unlearning_problems(plan.model_name, options, known)
    elif evaluation == "autointerp":
        yield from autointerp_problems(options, plan.environment)
    elif evaluation == "ravel":
        yield from ravel_problems(plan.model_name, options, plan.data_folder, known)
    elif evaluation == "sae_probes":
        yield from sae_probes_problems(options)


def _hook_problems(plan: _Plan) -> Iterator[RunError]:
    """TransformerLens has no module paths, and two evaluations look behind a layer only."""
    name = plan.hook_name
    if HOOK.fullmatch(name) is None:
        yield RunError(
            f"model.hook_name={name!r}: must be blocks.L.hook_resid_post or "
            "blocks.L.hook_resid_pre for SAEBench, which reads activations by the names of "
            "TransformerLens"
        )
    elif name.endswith("pre"):
        for evaluation in (e for e in AFTER_A_LAYER if e in plan.evaluations):
            yield RunError(
                f"model.hook_name={name!r}: must be blocks.L.hook_resid_post for {evaluation}, "
                f"where SAEBench reads nothing else; or leave {evaluation} out of eval.evals"
            )


def _count_problems(
    plan: _Plan, evaluation: str, options: Mapping[str, Any]
) -> Iterator[InvalidOption]:
    """Numbers of latents that the SAE does not have, or that the record has no place for."""
    option = COUNTS.get(evaluation, "")
    given = options.get(option)
    if given is not None:
        values = list(given) if isinstance(given, Sequence) else [given]
        recorded = RECORDED.get(option, tuple(values))
        most, what = plan.d_sae, "d_sae"
        if option in ALSO_CHANNELS and plan.d_in < most:
            most, what = plan.d_in, "the width of the model"
        name = f"{evaluation}.{option}"
        if not set(values) <= set(recorded):
            known = ", ".join(map(str, recorded))
            yield InvalidOption(name, given, f"some of {known}, all that SAEBench's record holds")
        elif max(values) > most:
            yield InvalidOption(name, given, f"at most {most} ({what}) in every entry")
    if evaluation == "absorption" and plan.d_sae < PROJECTIONS:
        yield InvalidOption(
            "evals", "absorption", f"left out: it takes an SAE of {PROJECTIONS} latents or more"
        )
