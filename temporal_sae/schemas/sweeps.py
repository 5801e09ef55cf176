"""Schemas of a sweep's notes."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict  # pydantic knows that of typing from Python 3.12 on


class NotedJob(TypedDict):
    """A job in `sweep.json`; earlier versions have also noted why it has failed."""

    number: int
    folder: str
    overrides: list[str]
    reason: NotRequired[str | None]


class FixedMetric(TypedDict):
    """The primary metric of a sweep: when it was fixed, with the hash of all that was planned."""

    metric: str
    fixed: str
    sha256: str


class SweepNote(TypedDict):
    """`sweep.json`; `slurm_job` is the id of the array of its workers."""

    command: str
    launcher: str
    jobs: list[NotedJob]
    slurm_job: NotRequired[str | None]
    primary: NotRequired[FixedMetric | None]


class JobOutcome(TypedDict):
    """The end of a job."""

    reason: str | None
    refused: bool


class JobState(TypedDict):
    """`.sweep/N.json` of a sweep: the work that was put into its job N."""

    attempts: int
    step: int
    worker: NotRequired[str | None]
    outcome: NotRequired[JobOutcome | None]
