"""The story of a run as text: `notes.md`, and the table printed at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from temporal_sae import schemas
from temporal_sae.errors import RunError, printable
from temporal_sae.files import write_atomically
from temporal_sae.metrics import DASH
from temporal_sae.report.comparison import comparison, training_config
from temporal_sae.report.tasks import tasks_table

NOTES = "notes.md"
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
    "pairs_beyond_3_sigma": "share of them with \\|z\\| > 3",
    "fano_factor_median": "Fano factor of the most frequent pairs; 1 is Poisson",
    "co_activation_entropy": "entropy of co-activation over pairs (nats)",
    "phi_mean_of_top_pairs": "mean φ coefficient of the 200 most frequent pairs",
    "top_pairs_half_life_windows": "windows until the overlap of the top 200 has halved",
    "decoder_drift": "mean cosine of decoder rows between the last two logged steps",
    "decoder_effective_rank": "effective rank of the decoder",
    "decoder_mean_max_cosine": "mean over latents of the largest cosine to another",
}


def build_report(folder: str | Path) -> Path:
    """Write `notes.md` from the results and the record of a finished run; returns its path.

    Raises:
        FileNotFoundError, RunError: one of the two is missing or damaged.
    """
    folder = Path(folder)
    results, record = read_run(folder)
    compared = comparison(folder, results)
    parts = [
        "# Notes on a run",
        headline(results, record),
        "## What it measured",
        markdown_table(compared.header, compared.rows),
        *compared.legend,
        *tasks_part(results),
        "## What the tracker saw",
        co_activation_table(results.get("co-activation results", {})),
        "## What the method cost",
        cost_line(results["cost"], record),
        "## Where everything is",
        "\n".join(f"- `{name}`: {what}" for name, what in FILES.items()),
        f"Repeat it, in a new folder, with `{record['command']}`.",
    ]
    lines = "\n\n".join(parts).split("\n")
    write_atomically(folder / NOTES, "".join(printable(line) + "\n" for line in lines))
    return folder / NOTES


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


def tasks_part(results: dict[str, Any]) -> list[str]:
    """Return the section on the tasks, if some were done."""
    header, rows = tasks_table(results)
    if not rows:
        return []
    return ["## Tasks on labelled snippets", TASKS_CAVEAT, markdown_table(header, rows)]


TASKS_CAVEAT = (
    "SAEBench's questions on the standard library's sources. An interval says how far the score "
    "would move with other snippets or words, not with another seed; all scores are in "
    "`results.json`, and `python -m temporal_sae.report compare` sets runs beside each other."
)


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


def co_activation_table(measures: dict[str, Any]) -> str:
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
    return markdown_table(["measure", "value"], rows) if rows else "The tracker was off."


def number(value: float | None) -> str:
    """Three significant digits; thousands whole."""
    if value is None:
        return "not reached"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


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


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def print_summary(folder: str | Path, console: Console, reference: bool = False) -> None:
    """The table at the end of a run, its cost, and where everything was written.

    Args:
        folder: of the run.
        console: where to print; a narrow one is enough.
        reference: beside the reference runs too, whatever the model.
    """
    folder = Path(folder)
    results, record = read_run(folder)
    compared = comparison(folder, results, reference)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for n, name in enumerate(compared.header):
        table.add_column(name, justify="left" if n == 0 else "right", no_wrap=n == 0)
    for row in compared.rows:
        table.add_row(*(cell.replace(DASH, "-") for cell in row))
    console.print(table)
    whole = not console.is_terminal  # a file has no width
    for line in [*compared.legend, cost_line(results["cost"], record)]:
        console.print(line, markup=False, highlight=False, soft_wrap=whole)
    last = f"written to {folder} (read {NOTES})"
    console.print(last, markup=False, highlight=False, soft_wrap=True)
