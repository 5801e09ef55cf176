"""A sweep as a person sees it."""

import io
from pathlib import Path

from rich.console import Console

from temporal_sae.report.sweep_facts import JobStatus
from temporal_sae.report.sweep_progress import (
    LiveTable,
    duration,
    most_telling,
    print_table,
    summary,
)


def job(number, state, **more):
    return JobStatus(number, Path(str(number)), (f"a={number}", "b=1"), state, **more)


JOBS = [
    job(0, "finished", step=9, total_steps=9, loss=0.51234, tokens_per_second=12345.6),
    job(1, "running", step=4, total_steps=9, loss=0.7, tokens_per_second=100.0, eta_seconds=75.0),
    job(2, "failed", reason="killed by SIGKILL [9]"),
    job(3, "missing"),
]


def printed(**options):
    console = Console(file=io.StringIO(), **options)
    return console, lambda: console.file.getvalue()


def test_a_row_a_job_with_what_tells_it_from_the_others():
    console, text = printed()
    print_table(JOBS, console)
    lines = text().splitlines()
    assert len(lines) == 6
    assert lines[1].split() == ["0", "finished", "9/9", "12,346", "0.5123", "a=0"]
    assert lines[2].split() == ["1", "running", "4/9", "100", "0.7", "75", "s", "a=1"]
    assert "killed by SIGKILL [9]" in lines[3]
    assert lines[5].strip() == "1 of 4 finished, 1 running, 1 failed, 1 missing"


def test_running_and_failed_jobs_are_shown_first():
    many = [job(n, "finished") for n in range(5)] + [job(5, "missing"), job(6, "failed")]
    many.append(job(7, "running"))
    assert [s.number for s in most_telling(many, 2)] == [6, 7]
    assert [s.number for s in most_telling(many, 3)] == [5, 6, 7]
    assert most_telling(many, None) == many
    assert summary(many) == "5 of 8 finished, 1 running, 1 failed, 1 missing"


def test_without_a_terminal_a_line_for_every_change_of_state():
    seen = [job(0, "missing"), job(1, "missing")]
    console, text = printed()
    with LiveTable(lambda: seen, console) as table:
        seen[0] = job(0, "running")
        table.update(now=True)
        seen[0] = job(0, "running", step=5, total_steps=9)
        table.update(now=True)
        seen[0] = job(0, "stopped", step=5, total_steps=9, reason="stopped at step 7")
        table.update(now=True)
        seen[0] = job(0, "failed", step=5, total_steps=9, reason="[red] is no markup")
    assert text().splitlines() == [
        "job 0 (a=0): running",
        "job 0 (a=0): stopped at step 7",
        "job 0 (a=0): failed at step 5/9: [red] is no markup",
    ]


def test_looking_again_at_once_does_nothing():
    looks = []
    console, _ = printed()
    with LiveTable(lambda: looks.append(1) or JOBS, console) as table:
        for _ in range(100):
            table.update()
    assert len(looks) == 3  # at the start, once for a hundred updates, at the end


def test_on_a_terminal_the_table_is_no_higher_than_the_screen():
    console, text = printed(force_terminal=True, width=100, height=12)
    many = [job(n, "finished") for n in range(50)]
    with LiveTable(lambda: many, console) as table:
        table.update(now=True)
        picture = text()
        assert "44 more jobs are not shown" in picture
        assert picture.count("\n") <= 12


def test_durations():
    assert [duration(s) for s in (0.4, 99, 600, 11100)] == ["0 s", "99 s", "10 min", "3 h 05"]


def test_jobs_that_take_long_to_look_at_are_looked_at_less_often(monkeypatch):
    clock, looks = [0.0], []

    def statuses():
        clock[0] += 0.4  # as hundreds of folders take
        looks.append(clock[0])
        return JOBS

    monkeypatch.setattr("temporal_sae.report.sweep_progress.time.monotonic", lambda: clock[0])
    table = LiveTable(statuses, printed()[0])
    for _ in range(100):
        table.update()
        clock[0] += 0.5
    assert len(looks) <= 4
