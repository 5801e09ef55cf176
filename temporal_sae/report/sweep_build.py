"""The report of a sweep, or of runs that are set beside each other: `report.html`, `notes.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from temporal_sae import schemas
from temporal_sae.errors import RunError, printable
from temporal_sae.files import write_atomically
from temporal_sae.report.build import NOTES, PAGE
from temporal_sae.report.comparison import as_dict, reference_results
from temporal_sae.report.sweep_facts import RECORD, JobFacts, JobStatus, read_jobs
from temporal_sae.report.sweep_page import SweepFacts, page_of_jobs, tables_of, words_of
from temporal_sae.report.tables import to_markdown

SWEEP = "sweep.json"
# Groups of a config in which runs differ for a reason; the others follow from them.
TOLD = ("model", "data", "activations", "sae", "tracker", "loss", "trainer", "seed", "finetune")
MOST_KEYS = 12


def build_sweep_report(folder: Path, statuses: Sequence[JobStatus], command: str = "") -> Path:
    """Write the report of a sweep into its folder; returns the path of the page.

    Args:
        folder: of the sweep.
        statuses: of its jobs.
        command: that began it.
    """
    return write_report(SweepFacts.of(folder, folder.resolve().name, read_jobs(statuses), command))


def write_report(facts: SweepFacts) -> Path:
    """Write page and notes; returns the path of the page."""
    write_atomically(facts.folder / NOTES, notes_of_jobs(facts))
    write_atomically(facts.folder / PAGE, page_of_jobs(facts))
    return facts.folder / PAGE


def notes_of_jobs(facts: SweepFacts) -> str:
    """Return the same facts as Markdown."""
    parts = [f"# {facts.title}", *([f"`{facts.command}`"] if facts.command else [])]
    parts += ["## Did it help", *words_of(facts)]
    for table in tables_of(facts):
        parts += [f"## {table.title}", to_markdown(table), *table.notes]
    return "".join(printable(line) + "\n" for line in "\n\n".join(parts).split("\n"))


def facts_of_folders(folders: Sequence[Path], output: Path, reference: bool) -> SweepFacts:
    """Return the facts of all runs in some folders, of sweeps or of single runs.

    Args:
        folders: that hold them.
        output: the folder of the report.
        reference: the published runs on gemma-2-2b, too.

    Raises:
        RunError: a folder holds no run.
    """
    found = [(run, overrides) for folder in folders for run, overrides in runs_in(folder)]
    records = [record_of(run) for run, _ in found]
    differing = differences([as_dict(record.get("config")) for record in records])
    statuses = [
        JobStatus(
            n,
            run,
            tuple(overrides or (f"{key}={value}" for key, value in options.items())),
            str(record.get("status", "missing")),
            record.get("reason"),
        )
        for n, ((run, overrides), record, options) in enumerate(
            zip(found, records, differing, strict=True)
        )
    ]
    jobs = read_jobs(statuses)
    if reference:
        jobs += references(len(jobs))
    title, command = "Runs beside each other", ""
    if len(folders) == 1:
        title = folders[0].resolve().name
        if (folders[0] / SWEEP).is_file():
            command = schemas.read(folders[0] / SWEEP, schemas.SweepNote)["command"]
    return SweepFacts.of(output, title, jobs, command)


def runs_in(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the runs in a folder with the options that a sweep gave them; none for a single run.

    Raises:
        RunError: it holds none.
    """
    if (folder / RECORD).is_file():
        yield folder, []
        return
    if (folder / SWEEP).is_file():
        note = schemas.read(folder / SWEEP, schemas.SweepNote)
        for job in note["jobs"]:
            yield folder / job["folder"], list(job["overrides"])
        return
    inside = sorted(path.parent for path in folder.glob(f"*/{RECORD}"))
    if not inside:
        raise RunError(f"{printable(str(folder))}: holds neither a run nor a sweep")
    for run in inside:
        yield run, []


def record_of(run: Path) -> dict[str, Any]:
    """Return the record of a run; empty where there is none that can be read."""
    try:
        return schemas.read(run / RECORD, dict[str, Any])
    except (OSError, RunError):
        return {}


def differences(configs: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the options in which configs differ, the first few of them, as they are typed."""
    flat = [dict(leaves({k: c[k] for k in TOLD if k in c})) for c in configs]
    keys = dict.fromkeys(key for options in flat for key in options)
    differing = [k for k in keys if len({options.get(k) for options in flat}) > 1]
    differing = [k for k in differing if not k.endswith(".seed")][:MOST_KEYS]  # `seed` says it
    return [{k: options[k] for k in differing if k in options} for options in flat]


def leaves(config: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield every value of a nested config with its key."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", "null" if value is None else str(value)


def references(first: int) -> list[JobFacts]:
    """Return the published runs as if they were jobs."""
    return [
        JobFacts(JobStatus(first + n, Path(name), (f"reference={name}",), "finished"), {}, results)
        for n, (name, results) in enumerate(reference_results().items())
    ]
