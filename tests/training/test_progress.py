"""What is printed while a run trains."""

import io
import logging
import re
import sys

import pytest
from rich.console import Console

from temporal_sae.training import ProgressDisplay

METRICS = {
    "tokens": 20_000,
    "tokens_per_second": 12345.6,
    "loss": 0.1234,
    "explained_variance": 0.9,
    "l0": 32.0,
    "dead_share": 0.05,
}


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_the_numbers(terminal, capsys):
    console = Console(force_terminal=terminal, width=150)
    with ProgressDisplay(10, console) as display:
        display.show(10, METRICS)
    shown = capsys.readouterr().out
    for part in ("12,346 tokens/s", "loss 0.1234", "EV 0.900", "L0 32.0", "dead 5.0%", "10/10"):
        assert part in shown


def logged(steps, width, seconds_of, terminal=False):
    """What is printed for some steps that take a number of seconds each."""
    time = [0.0]
    console = Console(force_terminal=terminal, width=width, file=io.StringIO())
    with ProgressDisplay(1000, console, clock=lambda: time[0]) as display:
        display.start_at(0, 0)
        for step in range(10, steps + 1, 10):
            time[0] += 10 * seconds_of(step)
            display.show(step, {**METRICS, "tokens": step * 100})
    return console.file.getvalue()


def test_rate_and_time_left_are_those_of_the_last_seconds():
    last = logged(500, 200, lambda step: 30.0 if step <= 20 else 0.5).splitlines()[-1]
    assert "200 tokens/s" in last
    assert "eta 4 min" in last  # 500 steps of half a second


@pytest.mark.parametrize("width", [40, 60, 80, 132])
def test_the_bar_keeps_to_one_line_without_cut_words(width):
    shown = logged(500, width, lambda step: 0.05, terminal=True)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split("[\r\n]+", shown)]
    assert max(map(len, lines)) <= width
    assert any("500/1000  2,000 tokens/s" in line for line in lines) or width < 50
    assert {line.split("  ")[-1].split()[0] for line in lines if "loss" in line} <= {
        "loss",
        "EV",
        "L0",
        "dead",
    }
    assert not re.search(r"\x1b\[[0-9;]*m", shown)  # colours may vanish on some background


def test_log_lines_do_not_run_into_the_bar(capsys):
    handler = logging.StreamHandler(sys.stdout)
    logging.getLogger().addHandler(handler)
    try:
        with ProgressDisplay(10, Console(force_terminal=True, width=80)) as display:
            display.start_at(0, 0)
            logging.getLogger("temporal_sae").error("something to know")
    finally:
        logging.getLogger().removeHandler(handler)
    lines = re.split("[\r\n]+", capsys.readouterr().out)
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in lines]
    assert "something to know" in plain
