"""Two groups of finished runs compared, paired by seed, on every score that both have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from temporal_sae import schemas
from temporal_sae.activations.stream import OF_TRAINING_ALONE
from temporal_sae.commands import module_command
from temporal_sae.errors import RunError
from temporal_sae.metrics import TASKS_SECTION, finite_leaves, is_compared
from temporal_sae.statistics import PairedTest, paired_test

UNDEFINED_IN_SAEBENCH = -1.0  # it writes this for NaN


class Section(NamedTuple):
    """Scores by name, and the options that they were measured with."""

    options: Any
    scores: dict[str, float]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: of the run.
        seed: of the run.
        subject: language model, place in it and text, which have to agree between runs.
        sections: of the results by a short name, one per evaluation.
    """

    folder: Path
    seed: int
    subject: dict[str, Any]
    sections: dict[str, Section]


@dataclass(frozen=True)
class Row:
    """One metric: means of both groups over the pairs, and the paired test of A - B."""

    metric: str
    mean_a: float
    mean_b: float
    test: PairedTest

    @property
    def name(self) -> str:
        """The metric's own name, without the evaluation before it."""
        return self.metric.rpartition(": ")[2]


@dataclass(frozen=True)
class Comparison:
    """All metrics, and what was left out.

    Attributes:
        rows: a metric each.
        pairs: the runs of each seed that both groups have, in the order of the differences.
        notes: lines about what could not be compared.
    """

    rows: list[Row]
    pairs: list[tuple[Run, Run]]
    notes: list[str]

    @property
    def seeds(self) -> list[int]:
        """The seeds that both groups have."""
        return [run.seed for run, _ in self.pairs]


def compare_runs(a: Sequence[Path], b: Sequence[Path]) -> Comparison:
    """Compare the runs in the folders `a` with those in `b`, pair by pair of equal seed.

    Raises:
        RunError: a folder holds no finished run, a seed comes twice in a group, no seed is shared,
            the runs are of different language models or texts, or they share no score.
    """
    return compare_groups(*([read_run(folder) for folder in folders] for folders in (a, b)))


def compare_groups(a: list[Run], b: list[Run]) -> Comparison:
    """Compare two groups of runs, as `compare_runs` does; raises what it does."""
    groups = [by_seed(runs) for runs in (a, b)]
    seeds = sorted(groups[0].keys() & groups[1].keys())
    if not seeds:
        left, right = (", ".join(map(str, sorted(group))) for group in groups)
        raise RunError(f"no seed is in both groups: {left} against {right}")
    first, second = ([group[seed] for seed in seeds] for group in groups)
    check_subjects([*first, *second])
    notes = left_out_seeds(groups, seeds)
    rows, seen = [], set()
    for section, names in comparable_sections([*first, *second], notes):
        for name in names:
            x, y = ([r.sections[section].scores[name] for r in runs] for runs in (first, second))
            copied = (name, *x, *y)  # SAEBench's TPP is in a section with SCR and in its own
            if copied not in seen:
                seen.add(copied)
                rows.append(make_row(section, name, x, y))
    if not rows:
        command = module_command("temporal_sae.eval")
        raise RunError(f"the runs share no score; evaluate them alike: {command}")
    return Comparison(rows, list(zip(first, second, strict=True)), notes)


def read_run(folder: Path) -> Run:
    """Return a finished run with its scores.

    Raises:
        RunError: there is none.
    """
    try:
        record = schemas.read(folder / "run.json", schemas.ComparedRecord)
        results = schemas.read_results(folder / "results.json")
    except FileNotFoundError as error:
        raise RunError(f"{folder}: holds no finished run") from error
    if record["status"] != "finished":
        raise RunError(f"{folder}: holds no finished run")
    return run_of(folder, record["seed"], record["config"], results)


def run_of(folder: Path, seed: int, config: schemas.ComparedConfig, results: dict[str, Any]) -> Run:
    """Return a run with its scores from the content of its files."""
    return Run(folder, seed, subject_of(config), dict(sections_of(results)))


def subject_of(config: schemas.ComparedConfig) -> dict[str, Any]:
    """Return the options in which runs have to agree: where their activations come from."""
    model, data = config.get("model"), config.get("data")
    activations = config.get("activations", {})
    subject = {f"model.{key}": model.get(key) for key in ("name", "hook_name")} if model else {}
    own = {key: value for key, value in activations.items() if key not in OF_TRAINING_ALONE}
    return {**subject, "data": data or own}


def sections_of(results: dict[str, Any]) -> Iterator[tuple[str, Section]]:
    """Yield the evaluations in the results, each with the scores that depend on the SAE."""
    for name, content in results.items():
        if name == TASKS_SECTION:
            for task, options in content["options"].items():
                own = {n: v for n, v in content["scores"].items() if n.startswith(task)}
                yield f"tasks/{task}", Section(options, scores_of(own))
        elif isinstance(content, dict) and "eval_result_metrics" in content:
            found = scores_of(content["eval_result_metrics"])
            defined = {n: v for n, v in found.items() if v != UNDEFINED_IN_SAEBENCH}
            yield short_name(name), Section(content.get("eval_config"), defined)
        elif isinstance(content, dict) and "metrics" in content:
            yield short_name(name), Section(content.get("eval_cfg"), scores_of(content["metrics"]))


def short_name(section: str) -> str:
    """`core` of `core evaluation results`."""
    return re.sub(r" evaluations? results$", "", section)


def scores_of(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the metrics, in groups or not, that depend on the SAE and are numbers."""
    return {name: v for name, v in finite_leaves(metrics) if is_compared(name)}


def by_seed(runs: list[Run]) -> dict[int, Run]:
    """Return the runs of a group by their seed.

    Raises:
        RunError: two have the same.
    """
    found: dict[int, Run] = {}
    for run in runs:
        if run.seed in found and found[run.seed].folder.resolve() != run.folder.resolve():
            raise RunError(
                f"seed {run.seed} twice in a group: {found[run.seed].folder}, {run.folder}"
            )
        found[run.seed] = run
    return found


def check_subjects(runs: list[Run]) -> None:
    """Refuse runs that were not trained on activations of the same place, model and text.

    Runs of different seeds may have a source of another seed each, as worlds of their own.
    """
    first: dict[int, Run] = {}
    for run in runs:
        known = first.setdefault(run.seed, run)
        check_pair_of_subjects(known, run, known.subject, run.subject)
        own, others = (without_seeds(r.subject) for r in (runs[0], run))
        check_pair_of_subjects(runs[0], run, own, others)


def without_seeds(value: Any) -> Any:
    """Return options without those called `seed`, at any depth."""
    if not isinstance(value, dict):
        return value
    return {k: without_seeds(v) for k, v in value.items() if k != "seed"}


def check_pair_of_subjects(
    first: Run, run: Run, wanted: dict[str, Any], own: dict[str, Any]
) -> None:
    """Raise RunError for the first option in which two runs differ."""
    for key in {**wanted, **own}:  # not every source has a language model
        if wanted.get(key) != own.get(key):
            raise RunError(
                f"{first.folder} and {run.folder} differ in {key}: "
                f"{short(wanted.get(key))} against {short(own.get(key))}"
            )


def comparable_sections(runs: list[Run], notes: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Sections with the names of the scores that all runs have; the rest is noted."""
    for section in dict.fromkeys(name for run in runs for name in run.sections):
        having = [run.sections[section] for run in runs if section in run.sections]
        if len(having) < len(runs):
            notes.append(f"{section}: left out, only {len(having)} of {len(runs)} runs have it")
        elif any(own.options != having[0].options for own in having):
            notes.append(f"{section}: left out, the runs were evaluated with different options")
        else:
            yield section, [n for n in having[0].scores if all(n in own.scores for own in having)]


def left_out_seeds(groups: list[dict[int, Run]], seeds: list[int]) -> list[str]:
    """Return a line about the seeds that only one group has."""
    alone = sorted((groups[0].keys() | groups[1].keys()) - set(seeds))
    return [f"without a partner, left out: seed {', '.join(map(str, alone))}"] if alone else []


def make_row(section: str, name: str, a: list[float], b: list[float]) -> Row:
    """Return one metric compared, from the values of both groups in the same order of seeds."""
    return Row(f"{section}: {name}", sum(a) / len(a), sum(b) / len(b), paired_test(a, b))


def short(value: Any) -> str:
    """Return a config value in few characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
