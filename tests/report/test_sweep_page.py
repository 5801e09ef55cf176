"""`report.html` of sweeps and of runs beside each other."""

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_sae.report.__main__ import main
from temporal_sae.report.pareto import frontier
from temporal_sae.report.sweep_build import build_sweep_report
from temporal_sae.report.sweep_facts import JobStatus
from tests.report.test_run_page import HOSTILE, Cells, leave

points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(points, st.booleans(), st.booleans())
def test_the_frontier_is_what_nobody_beats(found, x_higher, y_higher):
    def beats(a, b):
        x, y = (a[0] - b[0]) * (1 if x_higher else -1), (a[1] - b[1]) * (1 if y_higher else -1)
        return x >= 0 and y >= 0 and (x > 0 or y > 0)

    expected = {p for p in found if not any(beats(other, p) for other in found)}
    assert frontier(found, x_higher, y_higher) == sorted(expected)


def sweep(folder, settings, seeds=(0,), **extra):
    """A sweep over λ2 and the window with a score for each (weight, window, seed)."""
    statuses = []
    for n, ((weight, window), seed) in enumerate(itertools.product(settings, seeds)):
        run = leave(folder / f"{n}_job", seed, weight, settings[weight, window](seed), **extra)
        record = json.loads((run / "run.json").read_text())
        if weight:
            record["config"]["tracker"] = {"window_size": window}
            record["config"]["loss"] = {"ortho_weight": weight, "seed": seed}
        record["objective"] = settings[weight, window](seed)
        (run / "run.json").write_text(json.dumps(record))
        (run / "report.html").write_text("")
        overrides = f"tracker.window_size={window}", f"loss.ortho_weight={weight}", f"seed={seed}"
        statuses.append(JobStatus(n, run, (*overrides, "objective=ce_loss_score"), "finished"))
    return statuses


def constant(value):
    return lambda seed: value + seed / 1000


SETTINGS = {
    (0, 100): constant(0.5),
    (1, 100): constant(0.6),
    (1, 200): constant(0.7),
    (3, 100): constant(0.4),
    (3, 200): constant(0.45),
}


def words(text):
    """The first section, without tags."""
    found = re.search(r'<section class="verdict">(.*?)</section>', text, re.S)[1]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", found.split("<table")[0]))


def test_settings_are_judged_by_the_runs_without_the_penalty(tmp_path):
    def noisy(value):
        return lambda seed: value + [0.001, -0.002, 0.003, 0.0][seed]

    settings = SETTINGS | {(1, 100): noisy(0.6), (3, 200): noisy(0.5)}
    statuses = sweep(tmp_path / "sweep", settings, range(4))
    text = build_sweep_report(tmp_path / "sweep", statuses, "python launch.py -m").read_text()
    assert "CE score: better in 1, worse in 0 of 2 settings" in words(text)  # the others' is exact
    cells = Cells(text)
    row = cells.row("tracker.window_size=100 loss.ortho_weight=1")
    assert row[1] == "4" and re.fullmatch(r"\+0\.099 \[\+0\.\d+, \+0\.1\d*\] \*", row[2]), row
    assert "*" not in cells.row("tracker.window_size=200 loss.ortho_weight=3")[2]
    assert "Best setting: tracker.window_size=200 loss.ortho_weight=1" in words(text)
    assert "in part the luckiest" in words(text)
    notes = (tmp_path / "sweep" / "notes.md").read_text()
    assert "| tracker.window_size=100 loss.ortho_weight=1 | 4 | +0.099" in notes


def test_settings_are_listed_from_the_best(tmp_path):
    statuses = sweep(tmp_path, SETTINGS, range(2))
    text = build_sweep_report(tmp_path, statuses).read_text()
    part = text.split("Settings, mean")[-1].split("</table>")[0]
    means = [float(m) for m in re.findall(r'<td class="number">(0\.\d+) ±', part)]
    assert means == sorted(means, reverse=True) and len(means) == 5


def test_one_seed_is_no_result(tmp_path):
    text = build_sweep_report(tmp_path, sweep(tmp_path, SETTINGS)).read_text()
    assert "no difference below is a result" in words(text)
    assert Cells(text).row("tracker.window_size=200 loss.ortho_weight=1")[1:3] == ["1", "+0.2"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({k: v for k, v in SETTINGS.items() if k[0]}, "no run here is without it"),
        ({k: v for k, v in SETTINGS.items() if not k[0]}, "there is nothing to judge"),
    ],
)
def test_what_cannot_be_said_is_said(tmp_path, settings, told):
    assert told in words(build_sweep_report(tmp_path, sweep(tmp_path, settings)).read_text())


def test_grids_and_lines_lead_to_the_runs(tmp_path):
    statuses = sweep(tmp_path, {k: v for k, v in SETTINGS.items() if k[0]})
    text = build_sweep_report(tmp_path, statuses).read_text()
    grid = re.search(r'<table class="heat">(.*?)</table>', text, re.S)[1]
    shown = {float(v): link for link, v in re.findall(r'href="([^"]+)">([\d.]+)</a>', grid)}
    expected = {0.6: 0, 0.7: 1, 0.4: 2, 0.45: 3}
    assert shown == {value: f"{n}_job/report.html" for value, n in expected.items()}
    assert "h9" in re.search(r'<td class="number (h\d)"[^>]*><a href="1_job', grid)[1]
    lines = re.search(r'aria-label="Options and scores.*?</svg>', text, re.S)[0]
    assert set(re.findall(r'href="([^"]+)"', lines)) == set(shown.values())


def test_every_job_appears_with_its_state(tmp_path):
    statuses = sweep(tmp_path, SETTINGS)
    lost = tmp_path / "lost"
    lost.mkdir()
    statuses += [
        JobStatus(5, lost, ("loss.ortho_weight=9",), "failed", f"the disk is full {HOSTILE}"),
        JobStatus(6, tmp_path / "gone", ("loss.ortho_weight=8",), "missing"),
    ]
    text = build_sweep_report(tmp_path, statuses).read_text()
    assert "7 runs: 5 finished, 1 failed, 1 missing" in text
    cells = Cells(text)
    assert any(cell.startswith("failed: the disk is full <script>") for cell in cells.row("5"))
    assert "missing" in cells.row("6")
    assert "script" not in cells.tags and "\x1b" not in text


def test_nothing_finished_is_a_page_too(tmp_path):
    statuses = [JobStatus(0, tmp_path / "0", (), "queued")]
    assert "No run has finished" in words(build_sweep_report(tmp_path, statuses).read_text())


def test_the_command_writes_reports_of_all_kinds(tmp_path, capsys):
    statuses = sweep(tmp_path / "sweep", SETTINGS)
    note = {"command": "python launch.py -m", "launcher": "basic"}
    jobs = [
        {"number": s.number, "folder": s.folder.name, "overrides": list(s.overrides)}
        for s in statuses
    ]
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({**note, "jobs": jobs}))
    main([str(tmp_path / "sweep"), "--csv", "--latex", "--png"])
    assert "\n1,100,1,0.600," in (tmp_path / "sweep/report/runs.csv").read_text()
    assert "python launch.py -m" in (tmp_path / "sweep/report.html").read_text()
    assert r"\begin{tabular}" in (tmp_path / "sweep/report/runs.tex").read_text()
    assert any((tmp_path / "sweep/report").glob("*.png"))
    run = statuses[1].folder
    main([str(run), "--csv", "--png", "--reference"])
    assert "baseline topk" in (run / "report/metrics.csv").read_text()
    assert "baseline topk" in (run / "report.html").read_text()
    main([str(run), str(tmp_path / "sweep"), f"--output={tmp_path / 'both'}", "--reference"])
    text = (tmp_path / "both" / "report.html").read_text()
    assert "9 runs: 9 finished" in text
    assert "../sweep/0_job/report.html" in Cells(text).addresses
    assert "Not comparable" in words(text)
    assert {"baseline_topk", "baseline_standard", "temporal_run_1"} <= {
        row[1] for row in Cells(text).rows if len(row) > 1
    }
    assert capsys.readouterr().out.count("written: ") == 5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "nowhere: there is no such folder"),
        (["empty"], "empty: holds neither a run nor a sweep"),
        (["run", "other"], "--output: must name a folder"),
        (["run", "other", "--output=run"], "holds a run, whose report would be replaced"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    leave(tmp_path / "run")
    leave(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert told in capsys.readouterr().err
