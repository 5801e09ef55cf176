"""docs/study.md and its figures, from the committed tables alone and the same bytes every time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from temporal_sae.files import write_atomically
from temporal_sae.study import bursts
from temporal_sae.study.analysis import (
    AtBudget,
    Compared,
    at_budget,
    compare,
    paths,
    stage_of,
)
from temporal_sae.study.design import Arm, Design, Setting
from temporal_sae.study.figure import Panel, pareto
from temporal_sae.study.figure import Path as ArmPath
from temporal_sae.study.predictions import Prediction
from temporal_sae.study.run import noted_digest
from temporal_sae.study.summary import answers, judged
from temporal_sae.study.table import Row, read_table
from temporal_sae.study.words import difference, plainly, row, seeds, spread

FLOOR = "loss.floor"
Curve = tuple[Arm, list[tuple[float, dict[str, float]]]]
INTRODUCTION = Path(__file__).parent / "introduction.md"


def write_page(
    designs: Sequence[Design],
    data: Path,
    introduction: str,
    page: Path,
    predictions: Mapping[str, Sequence[Prediction]],
) -> None:
    """Write the page and its figures.

    Args:
        designs: of the studies; those without a table are said to be open.
        data: where the tables are, and the figures go.
        introduction: what stands before the tables.
        page: its path, beside `data`.
        predictions: of some of the studies, by their names.

    Raises:
        RunError: a table does not belong to its design.
    """
    parts = [introduction]
    for design in designs:
        table = data / f"{design.name}.csv"
        if table.exists():
            parts += section(
                design, read_table(table, design), data, predictions.get(design.name, ())
            )
        else:
            parts += [f"## {design.name}\n", "This study has not been run yet.\n"]
    if (data / bursts.FILE).exists():
        parts += bursts.section(data / bursts.FILE)
    write_atomically(page, "\n".join(parts))


def section(
    design: Design, rows: Sequence[Row], data: Path, predictions: Sequence[Prediction]
) -> Iterator[str]:
    """Yield the part of a study, and write its figures."""
    n_runs, digest = len(rows), noted_digest(data / f"{design.name}.json")
    yield f"## {design.name}\n"
    yield (
        f"{n_runs:,} runs; {len(design.seeds)} seeds ({seeds(design.seeds)}), the weights chosen "
        f"on others ({seeds(design.tuning_seeds)}). Design `{digest}`, fixed before the first run. "
        f"`python -m temporal_sae.study run {design.name}` makes the table again; training adds up "
        f"to {hours(rows)}, which workers on several cores share.\n"
    )
    done = [setting for setting in design.settings if is_there(design, rows, setting.name)]
    if missing := [setting.name for setting in design.settings if setting not in done]:
        yield f"Not run to the end yet: {', '.join(missing)}.\n"
    yield from answers(design, rows, [s.name for s in done if s.name not in design.only_tuned])
    yield from judged(design, rows, [s.name for s in done], predictions)
    for setting in done:
        yield from setting_section(design, rows, setting, data)


def hours(rows: Sequence[Row]) -> str:
    """Return the time of all trainings in words."""
    return f"{sum(row.training_seconds for row in rows) / 3600:.1f} hours"


def is_there(design: Design, rows: Sequence[Row], setting: str) -> bool:
    """Return whether there are the runs by which a setting is judged."""
    stage, _ = stage_of(design, setting)
    return any((row.setting, row.stage) == (setting, stage) for row in rows)


def setting_section(
    design: Design, rows: Sequence[Row], setting: Setting, data: Path
) -> Iterator[str]:
    """Yield the tables and figures of a setting."""
    arms = (design.plain, *design.arms)
    found = {arm.name: at_budget(design, rows, setting.name, arm) for arm in arms}
    _, numbers = stage_of(design, setting.name)
    yield f"### {design.name}, {setting.name}\n"
    yield (
        f"Mean ± standard deviation over {len(numbers)} seeds, each arm at the "
        f"{plainly(design.cost)} of the plain SAE of the same seed less {design.budget:g} (an "
        "asterisk: not all seeds reach that, and the nearest run counts).\n"
    )
    yield arm_table(design, found, len(numbers))
    compared = compare(design, rows, setting.name)
    if compared:
        yield "Contrasts, fixed beforehand, at the same cost; p after Holm over all rows.\n"
        yield contrast_table(compared)
    curves = list(paths(design, rows, setting.name))
    for metric in dict.fromkeys(m for contrast in design.contrasts for m in contrast.metrics):
        name = f"{design.name}_{setting.name}_{metric.partition('.')[2]}.svg"
        write_atomically(data / name, figure(design, setting, metric, curves))
        yield f"![{plainly(metric)} against {plainly(design.cost)}]({data.name}/{name})\n"


def figure(design: Design, setting: Setting, metric: str, curves: Sequence[Curve]) -> str:
    """Return what each arm pays and gets, over λ2.

    Arms with a uniform part of their own stand in a panel for each, without it in their name; all
    others are in every panel.
    """
    floors = dict.fromkeys(arm.options().get(FLOOR) for arm, _ in curves)
    floors.pop(None, None)
    panels = []
    for floor in floors or {None: None}:
        drawn = []
        for arm, points in curves:
            shown = [(m[design.cost], m[metric]) for _, m in points if math.isfinite(m[metric])]
            if shown and arm.options().get(FLOOR, floor) == floor:
                name = arm.name.removesuffix(f" + {floor}")
                drawn.append(ArmPath(name, [x for x, _ in shown], [y for _, y in shown]))
        panels.append(Panel(f"{FLOOR}={floor}" if floor else "", drawn))
    title = f"{design.name}, {setting.name}: means over seeds, along the weight"
    return pareto(title, plainly(design.cost), plainly(metric), panels)


def arm_table(design: Design, found: dict[str, AtBudget], n_seeds: int) -> str:
    """Return a row for each arm."""
    lines = [row("arm", *map(plainly, design.metrics)), row("---", *["---:"] * len(design.metrics))]
    for name, arm in found.items():
        is_plain = name == design.plain.name
        star = "" if is_plain or arm.reached == n_seeds else "*"
        lines.append(row(name + star, *(spread(arm.values[metric]) for metric in design.metrics)))
    return "\n".join(lines) + "\n"


def contrast_table(compared: Sequence[Compared]) -> str:
    """Return a row for each contrast and metric."""
    heads = ("question", "metric", "arm", "control", "difference [95 % interval]")
    lines = [
        row(*heads, "p", "found", "detectable"),
        row(*["---"] * 2, *["---:"] * 4, "---", "---:"),
    ]
    for c in compared:
        told = f"{c.contrast.question}: {c.contrast.arm} against {c.contrast.control}"
        numbers = (f"{c.arm:.3f}", f"{c.control:.3f}", difference(c))
        p = "–" if math.isnan(c.holm) else f"{c.holm:.2g}"
        lines.append(row(told, plainly(c.metric), *numbers, p, c.verdict, f"{c.detectable:.3f}"))
    return "\n".join(lines) + "\n"
