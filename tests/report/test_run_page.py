"""`report.html` of a run: what it says, and that it shows what results.json holds."""

import copy
import json
import math
import random
import re
from html import unescape
from html.parser import HTMLParser

import pytest

from temporal_sae.metrics import declared
from temporal_sae.overrides.keys import plan_digest
from temporal_sae.report import build_report
from temporal_sae.report.__main__ import main
from tests.report.test_build import RECORD, RESULTS

HOSTILE = '<script>alert("x")</script>\x1b[31m\u202e'
CONFIG = {
    "model": {"name": "tiny", "hook_name": "h"},
    "data": {"path": "a"},
    "activations": {},
    "sae": {"k": 8},
    "trainer": {"lr": 1},
    "tracker": {"window_size": 1000},
    "loss": {"ortho_weight": 3.0},
}


class Cells(HTMLParser):
    """The cells of all tables, row by row, and every tag and address."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.addresses, self._is_cell = [], set(), [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [v for n, v in attrs if n in ("href", "src")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._is_cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._is_cell = False

    def handle_data(self, data):
        if self._is_cell:
            self.rows[-1][-1] += data

    def row(self, name):
        """The cells of the first row that begins so."""
        return next(row for row in self.rows if row and row[0] == name)


def leave(folder, seed=5, weight=3.0, score=0.5, tracker_bytes=2**20, **record):
    """A finished run."""
    folder.mkdir(parents=True)
    results = copy.deepcopy(RESULTS)
    results["training results for layer 3"]["config"] |= {"ortho_weight": weight, "seed": seed}
    metrics = results["core evaluation results"]["metrics"]
    metrics["model_performance_preservation"]["ce_loss_score"] = score
    results["cost"]["tracker_bytes"] = tracker_bytes
    (folder / "results.json").write_text(json.dumps(results))
    config = copy.deepcopy(CONFIG) | {"seed": seed}
    if not weight:
        config |= {"tracker": None, "loss": {"ortho_weight": 0.0}}
    config["loss"]["seed"] = seed  # as `${seed}` in the config of a penalty
    told = {**RECORD, "status": "finished", "seed": seed, "config": config, **record}
    (folder / "run.json").write_text(json.dumps(told))
    return folder


def log(folder, rows):
    """The metrics that a run logged."""
    lines = [json.dumps(row) if isinstance(row, dict) else row for row in rows]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def page(folder):
    return build_report(folder).read_text()


def verdict(folder):
    """The text of the first section."""
    found = re.search(r'<section class="verdict">(.*?)</section>', page(folder), re.S)[1]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", found.split("<table")[0]))


def test_every_number_is_that_of_the_results(tmp_path):
    """Of metrics chosen at random, with values at random."""
    chance = random.Random(3)
    folder = leave(tmp_path / "run")
    results = json.loads((folder / "results.json").read_text())
    named = [m for m in declared() if m.label and "core evaluation results" in m.sections]
    groups = results["core evaluation results"]["metrics"]
    for metric in named:
        group = groups
        for key in metric.groups[1:]:
            group = group.setdefault(key, {})
        group[metric.name] = chance.random()
    (folder / "results.json").write_text(json.dumps(results))
    cells = Cells(page(folder))
    for metric in chance.sample(named, 8):
        assert cells.row(metric.label)[1] == metric.form.format(metric.of(results))


def test_one_file_asks_for_nothing_and_runs_nothing(tmp_path):
    folder = leave(tmp_path / "run")
    log(folder, [{"step": n, "tokens": 10 * n, "loss": 1 / n, "l0": 8} for n in range(1, 5000)])
    text = page(folder)
    found = Cells(text)
    assert not found.tags & {"script", "link", "img", "iframe", "object"}
    assert all(not re.match(r"\w+:|//", address) for address in found.addresses)
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text
    assert len(text) < 120_000  # with five thousand logged steps


def test_what_a_stranger_wrote_is_shown_and_not_run(tmp_path):
    folder = leave(tmp_path / "run", command=HOSTILE, device=HOSTILE, git_revision=HOSTILE)
    results = json.loads((folder / "results.json").read_text())
    results["training results for layer 3"]["config"]["lm_name"] = HOSTILE
    (folder / "results.json").write_text(json.dumps(results))
    log(folder, [{"tokens": 1, "loss": 1, HOSTILE: 2}, HOSTILE, {"tokens": HOSTILE, "loss": 1}])
    text = page(folder)
    assert "script" not in Cells(text).tags
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text and "\u202e" not in text


def test_curves_leave_out_what_is_not_finite(tmp_path):
    folder = leave(tmp_path / "run")
    rows = [{"tokens": n, "loss": n} for n in range(1, 9)]
    rows[3]["loss"], rows[5]["loss"] = math.nan, None
    log(folder, [*rows, "{", '{"tokens": 1e999, "loss": 1}', "[]"])
    line = re.search(r'<path class="line s0" d="([^"]+)"', page(folder))[1]
    assert line.count("L") + line.count("M") == 6


def test_panels_that_nothing_was_logged_for_are_left_out(tmp_path):
    folder = leave(tmp_path / "run")
    log(folder, [{"tokens": n, "loss": n, "pair_stability": n / 9} for n in range(1, 9)])
    text = page(folder)
    assert "Stability of frequent pairs" in text and "<figcaption>Loss" in text
    assert "Dead latents" not in text and "z of frequent pairs" not in text


def test_without_a_baseline_nothing_is_claimed(tmp_path):
    folder = leave(tmp_path / "run")
    leave(tmp_path / "other_seed", seed=6, weight=0.0)
    leave(tmp_path / "same_again", seed=7)
    told = verdict(folder)
    assert "Whether the penalty helped cannot be said" in told
    assert f"{RECORD['command']} tracker=off loss.ortho_weight=0" in told


def test_a_run_without_the_penalty_is_judged_by_nothing(tmp_path):
    assert "no orthogonality penalty" in verdict(leave(tmp_path / "run", weight=0.0))


def test_one_pair_is_no_result(tmp_path):
    folder = leave(tmp_path / "run", score=0.9)
    leave(tmp_path / "off", weight=0.0, score=0.1, tracker_bytes=0)
    told = verdict(folder)
    assert "without tracker and penalty, with the same seed: CE score 0.900 against 0.100" in told
    assert "no difference here is a result" in told
    row = next(r for r in Cells(page(folder)).rows if r[:3] == ["CE score", "0.900", "0.100"])
    assert row[3:] == ["+0.8", "–", "–", "–", "too few pairs"]


@pytest.mark.parametrize("sign", [1, -1])
def test_several_seeds_support_a_verdict(tmp_path, sign):
    """With differences of .1 and hardly any spread."""
    for seed in range(4):
        leave(tmp_path / f"on{seed}", seed=seed, score=0.5 + sign * 0.1 + seed / 1000)
        leave(tmp_path / f"off{seed}", seed=seed, weight=0.0, score=0.5 + seed / 700)
    told = verdict(tmp_path / "on2")
    words = "better in CE score (+0.0" if sign > 0 else "Worse in CE score (-0.1"
    assert "Over 4 seeds" in told and words in told
    assert "No clear difference in 1 of 2" in told  # the dead latents do not vary
    assert ("better in no score" in told) == (sign < 0)
    marked = re.search(r'<tr class="marked"><th scope="row">CE score', page(tmp_path / "on2"))
    assert marked


def test_a_page_corrects_what_was_not_fixed_beforehand(tmp_path):
    """One of two scores that vary, with p = .03: clear as the primary metric of its sweep alone."""
    for seed, more in enumerate((0.030, 0.041, 0.004, 0.035)):
        leave(tmp_path / f"on{seed}", seed=seed, score=0.5 + more)
        leave(tmp_path / f"off{seed}", seed=seed, weight=0.0, score=0.5)
    told = verdict(tmp_path / "on1")
    assert "better in no score" in told and "No primary metric was fixed" in told
    jobs = [
        {"number": n, "folder": path.name, "overrides": [f"x={path.name}"]}
        for n, path in enumerate(sorted(tmp_path.iterdir()))
    ]
    plan = plan_digest("ce_loss_score", [job["overrides"] for job in jobs])
    fixed = {"metric": "ce_loss_score", "fixed": "2026-01-02T03:04:05+00:00", "sha256": plan}
    note = {"command": "", "launcher": "", "jobs": jobs, "primary": fixed}
    (tmp_path / "sweep.json").write_text(json.dumps(note))
    told = verdict(tmp_path / "on1")
    assert "better in CE score (primary) (+0.0275" in told
    assert f"on 2026-01-02T03:04:05+00:00, before the first job began (plan {plan[:12]})" in told
    (tmp_path / "sweep.json").write_text(json.dumps(note | {"jobs": jobs[:-1]}))
    told = verdict(tmp_path / "on1")
    assert "better in no score" in told and "it is not called primary" in told


def test_differences_of_noise_are_no_verdict(tmp_path):
    for seed, noise in enumerate((0.05, -0.04, 0.03, -0.05)):
        leave(tmp_path / f"on{seed}", seed=seed, score=0.5 + noise)
        leave(tmp_path / f"off{seed}", seed=seed, weight=0.0, score=0.5)
    told = verdict(tmp_path / "on1")
    assert "better in no score" in told and "Worse" not in told
    assert "marked" not in "".join(re.findall(r"<tr[^>]*>", page(tmp_path / "on1")))


def test_a_run_that_was_evaluated_otherwise_is_not_compared(tmp_path):
    folder = leave(tmp_path / "run", score=0.9)
    off = leave(tmp_path / "off", weight=0.0, score=0.1)
    results = json.loads((off / "results.json").read_text())
    results["core evaluation results"]["eval_cfg"] = {"context_size": 64}
    (off / "results.json").write_text(json.dumps(results))
    assert "Not comparable" in verdict(folder)


def test_other_data_make_no_twin(tmp_path):
    folder = leave(tmp_path / "run")
    off = leave(tmp_path / "off", weight=0.0)
    record = json.loads((off / "run.json").read_text())
    record["config"]["data"] = {"path": "b"}
    (off / "run.json").write_text(json.dumps(record))
    assert "cannot be said" in verdict(folder)


def test_a_failed_run_says_why(tmp_path):
    folder = leave(tmp_path / "run", status="failed", reason="the disk is full <b>")
    assert "failed: the disk is full &lt;b&gt;" in page(folder)


def test_the_atlas_is_linked_once_it_is_there(tmp_path):
    folder = leave(tmp_path / "a run")
    assert f"python -m temporal_sae.atlas '{folder}'" in unescape(page(folder))
    (folder / "atlas").mkdir()
    (folder / "atlas" / "index.html").write_text("")
    assert "atlas/index.html" in Cells(page(folder)).addresses


def test_costs_add_up(tmp_path):
    folder = leave(tmp_path / "run", memory_budget_bytes={"tracker": 2**21, "batch": 2**22})
    cells = Cells(page(folder))
    assert cells.row("language model, SAE, optimiser")[1:] == ["75", "75.0%"]
    assert cells.row("tracker")[1:] == ["20", "20.0%"]
    assert ["tracker", "2", "1"] in cells.rows and ["batch", "4", "–"] in cells.rows
    assert cells.row("whole process, host")[1:] == ["–", "1,024"]


@pytest.mark.parametrize("status", ["running", "stopped", "failed"])
def test_a_run_that_has_not_finished_shows_what_there_is(tmp_path, status, capsys):
    folder = leave(tmp_path / "run", status=status, reason=f"stopped by hand {HOSTILE}")
    (folder / "results.json").unlink()
    log(folder, [{"tokens": n, "loss": 1 / n} for n in range(1, 9)])
    main([str(folder)])
    text = (folder / "report.html").read_text()
    assert f"{status}: stopped by hand &lt;script&gt;" in text
    assert "<figcaption>Loss" in text and "script" not in Cells(text).tags
    assert f"written: {folder / 'report.html'}" in capsys.readouterr().out
    (folder / "metrics.jsonl").unlink()
    main([str(folder)])
    assert "Training so far" not in (folder / "report.html").read_text()
