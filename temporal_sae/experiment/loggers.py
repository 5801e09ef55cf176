"""The loggers of a run, of which there may be several."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.experiment.construct import TARGET, arguments_of, find_class, make, plain
from temporal_sae.experiment.results import summary_of
from temporal_sae.metrics import TRAINING_SECTION
from temporal_sae.report.comparison import comparison
from temporal_sae.report.tables import Table, to_markdown
from temporal_sae.training import About, EndTable, JsonlLogger, Loggers, MetricsLogger

GROUP = "logger"


def build_loggers(cfg: DictConfig, folder: Path) -> Loggers:
    """Instantiate the loggers that a config names, and the one of `metrics.jsonl` in any case.

    Raises:
        InvalidOption, RunError: as `build`; or several would write `metrics.jsonl`.
    """
    chosen = options_by_place(plain(cfg.get(GROUP, {})))
    built: dict[str, MetricsLogger] = {
        place: make(place, options, MetricsLogger, folder=folder)
        for place, options in chosen.items()
    }
    writers: dict[str, Any] = {
        place: x for place, x in built.items() if getattr(x, "writes_metrics", False)
    }
    own = {place: x for place, x in writers.items() if type(x) is not JsonlLogger}
    if len(own) > 1:
        allowed = "one of them alone, for each of them writes metrics.jsonl"
        raise InvalidOption(GROUP, sorted(map(name_of, own)), allowed)
    (jsonl,) = [*own.values(), *writers.values(), JsonlLogger(folder)][:1]
    others = {name_of(place): x for place, x in built.items() if place not in writers}
    return Loggers(jsonl, others)


def options_by_place(options: Any) -> dict[str, Any]:
    """Return the options of each logger by their key: `logger.NAME`, or of one `logger` itself.

    The options of a logger are the group's own where its file names no package. Beside them there
    may be those of others, which are none of its arguments.

    Raises:
        RunError: a key is none of a logger.
    """
    if not isinstance(options, dict):
        return {GROUP: options}
    if TARGET in options:
        known, _ = arguments_of(find_class(f"{GROUP}.{TARGET}", options[TARGET]))
        apart = {k for k, v in options.items() if is_component(v) and k not in (known or (k,))}
        own = {k: v for k, v in options.items() if k not in apart}
        return {GROUP: own} | {f"{GROUP}.{k}": options[k] for k in apart}
    for key, value in options.items():
        if not is_component(value):
            raise RunError(f"{GROUP}.{key}: unknown key")
    return {f"{GROUP}.{key}": value for key, value in options.items()}


def is_component(value: Any) -> bool:
    """Return whether these are options with the name of a class."""
    return isinstance(value, dict) and TARGET in value


def name_of(place: str) -> str:
    """Return the name by which a logger is spoken of."""
    return place.removeprefix(f"{GROUP}.")


def end_table(folder: Path, results: dict[str, Any]) -> EndTable:
    """Return the table at the end of a run."""
    header, rows, legend = comparison(folder, results)
    table = to_markdown(Table("metrics", "Metrics", header, rows, legend))
    return EndTable(header, rows, "\n\n".join([table, *legend]))


def tell_later(
    loggers: Loggers, folder: Path, record: Mapping[str, Any], results: dict[str, Any]
) -> None:
    """Hand on the results of a run that has been evaluated after its end."""
    steps = [
        section["config"]["steps"]
        for name, section in results.items()
        if name.startswith(TRAINING_SECTION)
    ]
    loggers.start(About(record["config"], overrides_in(record["command"])))
    loggers.rewind(max(steps))
    loggers.summarise(summary_of(results))
    if isinstance(objective := record.get("objective"), float):
        loggers.summarise({"objective": objective})
    loggers.tabulate(partial(end_table, folder, results))
    loggers.finish(0)


def overrides_in(command: str) -> list[str]:
    """Return the overrides of the command that repeats a run, none where it cannot be read."""
    try:
        return [word for word in shlex.split(command) if "=" in word]
    except ValueError:
        return []
