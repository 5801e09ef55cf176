"""The arms of a sweep: its finished runs, by the options that set them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from temporal_sae.errors import RunError, printable
from temporal_sae.overrides.keys import key_of, varying_keys
from temporal_sae.report.comparison import as_dict
from temporal_sae.report.paired import Run, read_run
from temporal_sae.report.sweep_build import leaves, record_of, runs_in
from temporal_sae.report.sweep_facts import typed

DEFAULT = "default"  # of a group that a job does not name


class Member(NamedTuple):
    """A finished run of a sweep.

    Attributes:
        run: with its scores.
        overrides: those of its job.
        options: by key, the value that was typed, or else that of its config.
    """

    run: Run
    overrides: list[str]
    options: Mapping[str, str]


class Arms(NamedTuple):
    """Runs of a sweep in groups of one for each seed.

    Attributes:
        baseline: the runs that the others are compared with.
        arms: the others, by their options in words.
        notes: lines about what was left out.
    """

    baseline: list[Run]
    arms: dict[str, list[Run]]
    notes: list[str]


def arms_of(sweep: Path, by: Sequence[str], baseline: Sequence[str]) -> Arms:
    """Return the baseline and the other arms of a sweep, or of a folder of runs.

    Args:
        sweep: its folder.
        by: keys whose values tell arms apart.
        baseline: overrides that all runs of the baseline have.

    Raises:
        RunError: there is no such key or run, a seed comes twice in an arm because another option
            differs in it, or an override is none.
    """
    members, notes = members_of(sweep)
    for key in by:
        if not any(key in member.options for member in members):
            known = sorted(varying_keys([m.overrides for m in members]) - {"seed"})
            raise RunError(f"--by={key}: no run of {sweep} has it; {', '.join(known)} differ")
    wanted = [split(override) for override in baseline]
    groups: dict[str | None, list[Member]] = {None: []}
    for member in members:
        groups.setdefault(arm_of(member, by, wanted), []).append(member)
    first = groups.pop(None)
    told = " ".join(baseline)
    if not first:
        raise RunError(f"--baseline={told}: no finished run of {sweep} has it")
    if not groups:
        raise RunError(f"--baseline={told}: all finished runs of {sweep} have it")
    check_seeds(first, f"--baseline={told}", "to the overrides of the baseline")
    for arm, own in groups.items():
        check_seeds(own, f"--by={' '.join(by)}: {arm}", "to --by")
    return Arms(
        [m.run for m in first], {str(a): [m.run for m in g] for a, g in groups.items()}, notes
    )


def members_of(sweep: Path) -> tuple[list[Member], list[str]]:
    """Return the finished runs in a folder, and a line about the others."""
    found, missing = [], 0
    for folder, overrides in runs_in(sweep):
        record = record_of(folder)
        if record.get("status") != "finished":
            missing += 1
            continue
        options = dict(leaves(as_dict(record.get("config"))))
        options |= {key_of(override): override.partition("=")[2] for override in overrides}
        found.append(Member(read_run(folder), overrides, options))
    return found, [f"not finished, left out: {missing} jobs"] if missing else []


def arm_of(member: Member, by: Sequence[str], baseline: Sequence[tuple[str, str]]) -> str | None:
    """Return a run's arm in words; None if it is of the baseline."""
    if all(typed(member.options.get(key, DEFAULT)) == typed(value) for key, value in baseline):
        return None
    return printable(" ".join(f"{key}={member.options.get(key, DEFAULT)}" for key in by))


def split(override: str) -> tuple[str, str]:
    """Return key and value of an override.

    Raises:
        RunError: it is none.
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RunError(f"--baseline={override}: must be overrides, such as tracker=off")
    return key.lstrip("+~"), value


def check_seeds(members: Sequence[Member], told: str, where: str) -> None:
    """Refuse an arm in which another option differs, too.

    Raises:
        RunError: a seed comes twice.
    """
    seen: dict[int, Member] = {}
    for member in members:
        other = seen.setdefault(member.run.seed, member)
        if other is not member:
            keys = varying_keys([other.overrides, member.overrides]) or {"a key that differs"}
            raise RunError(
                f"{told}: seed {member.run.seed} twice ({other.run.folder.name}, "
                f"{member.run.folder.name}); add {', '.join(sorted(keys))} {where}"
            )
