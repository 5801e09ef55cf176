"""Facts that the reports of a run show, from the files of its folder alone."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NamedTuple

from temporal_sae import schemas
from temporal_sae.errors import RunError, is_finite, printable
from temporal_sae.metrics import DASH
from temporal_sae.report.comparison import as_dict, comparison, training_config
from temporal_sae.report.neighbours import Told
from temporal_sae.report.tables import Table, number
from temporal_sae.report.tasks import tasks_table
from temporal_sae.report.verdict import Judgement, judge

FILES = {
    "sae/": "the SAE, for `temporal_sae.sae.load_sae` or `sae_lens.SAE.load_from_disk`",
    "results.json": "all numbers, in the sections of the reference results",
    "metrics.jsonl": "one line per logged step",
    "eval/": "one file per evaluation",
    "checkpoints/": "the newest two, for continuing",
    "snapshots/": "SAEs on the way, as `sae/`, where `trainer.keep_every` is set",
    "run.json": "config, versions, time, memory, and the command that repeats the run",
    "text.json": "the local files that it reads",
    ".hydra/": "the composed config",
}
CO_ACTIVATION = {
    "frequent_pairs": "pairs with at least 10 expected counts per window",
    "pair_stability": "their mean stability 1 - s",
    "pair_z_rms": "their root mean square z; 1 is counting noise alone",
    "pairs_beyond_3_sigma": "share of them with |z| > 3",
    "bursty_share": "share of co-activation that comes in bursts",
    "latent_burstiness_median": "median burstiness of latents with at least 10 counts per window",
    "fano_factor_median": "Fano factor of the most frequent pairs; 1 is Poisson",
    "co_activation_entropy": "entropy of co-activation over pairs (nats)",
    "phi_mean_of_top_pairs": "mean φ coefficient of the 200 most frequent pairs",
    "top_pairs_half_life_windows": "windows until the overlap of the top 200 has halved",
    "decoder_drift": "mean cosine of decoder rows between the last two logged steps",
    "decoder_effective_rank": "effective rank of the decoder",
    "decoder_mean_max_cosine": "mean over latents of the largest cosine to another",
}


TASKS_CAVEAT = (
    "SAEBench's questions on the standard library's sources. An interval says how far the score "
    "would move with other snippets or words, not with another seed; all scores are in "
    "`results.json`, and `python -m temporal_sae.report compare` sets runs beside each other."
)


class RunFacts(NamedTuple):
    """Facts about a run that has finished training.

    Attributes:
        folder: of the run.
        record, results: the content of its files.
        headline: a sentence on what was trained.
        judgement: on the method.
        measured: its metrics beside others'.
        tasks: scores on labelled snippets; no rows where none were done.
        tracker: what the tracker saw; no rows where it was off.
        cost: a sentence on time and memory.
        time: seconds of each component, as measured.
        memory: what was planned for each component.
    """

    folder: Path
    record: dict[str, Any]
    results: dict[str, Any]
    headline: str
    judgement: Judgement
    measured: Table
    tasks: Table
    tracker: Table
    cost: str
    time: Table
    memory: Table

    @property
    def folder_as_typed(self) -> str:
        """The folder as it is typed after a command."""
        return shlex.quote(printable(str(self.folder)))

    @property
    def tables(self) -> list[Table]:
        """All tables with a row, in order."""
        twins = (self.judgement.table, self.judgement.rest)
        found = [
            *(table for table in twins if table),
            self.measured,
            self.tasks,
            self.tracker,
            self.time,
            self.memory,
        ]
        return [table for table in found if table.rows]


def read_facts(folder: str | Path, reference: bool = False) -> RunFacts:
    """Return the facts of a run.

    Args:
        folder: of the run.
        reference: beside the reference runs too, whatever the model.

    Raises:
        FileNotFoundError, RunError: record or results are missing or damaged.
    """
    folder = Path(folder)
    results, told = read_run(folder)
    record = schemas.read(folder / "run.json", dict[str, Any])
    compared = comparison(folder, results, reference)
    own = Told(as_dict(record.get("config")), results)
    return RunFacts(
        folder,
        record,
        results,
        headline(results, told),
        judge(folder, own, printable(told["command"])),
        Table("metrics", "Metrics", compared.header, compared.rows, compared.legend),
        Table("tasks", "Tasks on labelled snippets", *tasks_table(results), [TASKS_CAVEAT]),
        co_activation_table(results.get("co-activation results", {})),
        cost_line(results["cost"], told),
        time_table(results["cost"], record),
        memory_table(record, results["cost"]),
    )


def read_run(folder: Path) -> tuple[dict[str, Any], schemas.ToldRecord]:
    """Results and record of a run that has finished training.

    Raises:
        FileNotFoundError, RunError: one of the two is missing or damaged.
    """
    path = folder / "results.json"
    results = schemas.read_results(path, schemas.TOLD)
    for section in ("training results", "cost"):
        if not any(name.startswith(section) for name in results):
            raise RunError(f"{path}: cannot be read (it has no section '{section}')")
    return results, schemas.read(folder / "run.json", schemas.ToldRecord)


def headline(results: dict[str, Any], record: schemas.ToldRecord) -> str:
    """Return a sentence on what was trained."""
    config = training_config(results)
    named = {"k": "k", "l1_penalty": "L1", "l0_target": "L0 target", "l0_weight": "L0 weight"}
    # A weight of 0 is worth saying; an architecture need not have any of these.
    sparsity = [
        f"{word} {config[key]}" for key, word in named.items() if config.get(key) is not None
    ]
    what = ", ".join([config["dict_class"], *sparsity[:1]])
    places = (config["lm_name"], config["submodule_name"])
    place = ", ".join(filter(None, places)) or printable(config["activations"])
    return (
        f"{config['dict_size']:,} latents ({what}) on {place} (width {config['activation_dim']}): "
        f"{config['steps']:,} steps at learning rate {config['lr']:.3g}, λ2 "
        f"{config['ortho_weight']:g}, seed {config['seed']}, on {record['device']}."
    )


def co_activation_table(measures: dict[str, Any]) -> Table:
    """Return the stability measures with what they mean."""
    rows = [
        [meaning, number(measures[name])]
        for name, meaning in CO_ACTIVATION.items()
        if name in measures
    ]
    overlaps = measures.get("top_pairs_overlap_by_windows", {})
    rows += [
        [f"overlap of the top 200 pairs, {lag} windows apart", number(value)]
        for lag, value in overlaps.items()
    ]
    return Table("tracker", "What the tracker saw", ["measure", "value"], rows, [])


def time_table(cost: dict[str, Any], record: dict[str, Any]) -> Table:
    """Return where the time went."""
    whole, parts = cost["training_seconds"], {}
    for name in ("tracker", "penalty"):
        parts[name] = cost[f"{name}_seconds"]
    rows = [
        ["language model, SAE, optimiser", whole - sum(parts.values())],
        ["tracker", parts["tracker"]],
        ["penalty with its gradient", parts["penalty"]],
    ]
    wall = record.get("wall_seconds")
    shown = [[name, number(s), f"{s / max(whole, 1e-9):.1%}"] for name, s in rows]
    shown.append(["training", number(whole), "100.0%"])
    if is_number(wall):
        shown.append(["whole run, with start and evaluation", number(wall), DASH])
    return Table("time", "Where the time went", ["component", "seconds", "of training"], shown, [])


def memory_table(record: dict[str, Any], cost: dict[str, Any]) -> Table:
    """Return what each component was planned to take, and what was measured."""
    planned = numbers_in(record.get("memory_budget_bytes"))
    measured = {"tracker": cost.get("tracker_bytes") or 0}
    rows = [
        [
            printable(name),
            mebibytes(size),
            mebibytes(found) if (found := measured.get(name)) else DASH,
        ]
        for name, size in sorted(planned.items(), key=lambda item: -item[1])
    ]
    peak = numbers_in(record.get("peak_memory_bytes"))
    rows += [[f"whole process, {where}", DASH, mebibytes(size)] for where, size in peak.items()]
    header = ["component", "planned, MiB", "measured, MiB"]
    return Table("memory", "Memory by component", header, rows if planned else [], [])


def numbers_in(value: Any) -> dict[str, float]:
    """Return the entries of a mapping that are numbers."""
    return {str(name): size for name, size in as_dict(value).items() if is_number(size)}


def is_number(value: Any) -> bool:
    """Return True for a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and is_finite(value)


def mebibytes(size: float) -> str:
    """Return bytes in MiB."""
    return number(size / 2**20)


def cost_line(cost: dict[str, Any], record: schemas.ToldRecord) -> str:
    """Time and memory in a sentence."""
    return (
        f"Training took {cost['training_seconds']:.0f} s "
        f"({record['tokens_per_second']:,.0f} tokens/s), of which the tracker "
        f"{cost['tracker_seconds']:.1f} s and the penalty with its gradient "
        f"{cost['penalty_seconds']:.1f} s, together {cost['method_share_of_training_time']:.0%}. "
        f"The tracker held {cost['tracker_bytes'] / 2**20:.0f} MiB; the process peaked at "
        f"{record['peak_memory_bytes']['host'] / 2**30:.2f} GiB."
    )
