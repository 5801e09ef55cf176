"""Arms of a sweep against a baseline: `report compare SWEEP --by KEY --baseline OVERRIDE`."""

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

from temporal_sae.overrides.keys import plan_digest
from temporal_sae.report.__main__ import main
from temporal_sae.report.compare import compare_arms
from temporal_sae.report.compare_table import print_comparison

NOISE = {1: 0.0, 2: 0.002, 3: -0.001, 4: 0.001}
ARMS = {
    "none": (["tracker=off", "loss.ortho_weight=0"], {"ce_loss_score": 0.9, "mse": 0.2}),
    "c": (["loss.weighting=co_activation"], {"ce_loss_score": 0.95, "mse": 0.2001}),
    "rates": (["loss.weighting=rates"], {"ce_loss_score": 0.9, "mse": 0.25}),
}
BY = ["--by", "loss.weighting", "--baseline", "tracker=off"]


def write_run(folder, seed, scores, config):
    folder.mkdir()
    record = {"status": "finished", "seed": seed, "config": {"model": {"name": "tiny"}, **config}}
    metrics = {"quality": scores}
    results = {"core evaluation results": {"eval_cfg": {}, "metrics": metrics}}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def sweep(tmp_path):
    """Three arms and four seeds, which differ by little but in the scores above."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    jobs = []
    for n, (overrides, scores) in enumerate(ARMS.values()):
        for seed, noise in NOISE.items():
            name = f"{len(jobs)}_job"
            own = {k: v + seed / 100 + (n + 1) * noise * v for k, v in scores.items()}
            write_run(folder / name, seed, own, {"loss": {"ortho_weight": 0.0 if n == 0 else 3.0}})
            jobs.append({"number": len(jobs), "folder": name})
            jobs[-1]["overrides"] = [*overrides, f"seed={seed}"]
    write_note(folder, jobs)
    return folder


def write_note(folder, jobs, **more):
    note = {"command": "", "launcher": "", "jobs": jobs, **more}
    (folder / "sweep.json").write_text(json.dumps(note))


def note_of(folder):
    return json.loads((folder / "sweep.json").read_text())


def fix(folder, metric):
    note = note_of(folder)
    plan = plan_digest(metric, [job["overrides"] for job in note["jobs"]])
    note["primary"] = {"metric": metric, "fixed": "2026-01-02T03:04:05+00:00", "sha256": plan}
    (folder / "sweep.json").write_text(json.dumps(note))


def compare(folder, *words):
    main(["compare", str(folder), *words])


def refused(capsys, folder, *words):
    with pytest.raises(SystemExit) as end:
        compare(folder, *words)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_arms_against_the_baseline_seed_by_seed(sweep):
    found = compare_arms(sweep, ["loss.weighting"], ["tracker=off"], {})
    by = {(f.arm, f.row.name): f for f in found.rows}
    assert {arm for arm, _ in by} == {"loss.weighting=co_activation", "loss.weighting=rates"}
    assert set(map(tuple, found.seeds.values())) == {(1, 2, 3, 4)}
    assert by["loss.weighting=co_activation", "ce_loss_score"].verdict == "improvement"
    assert by["loss.weighting=rates", "mse"].verdict == "worse"
    assert by["loss.weighting=rates", "ce_loss_score"].verdict == "no clear difference"
    expected = 0.05 + 0.0005 * (2 * 0.95 - 0.9)  # mean of the noise is .0005
    assert by["loss.weighting=co_activation", "ce_loss_score"].row.test.mean == pytest.approx(
        expected
    )


def test_the_baseline_is_found_by_an_option_that_nobody_typed(sweep):
    """Jobs without penalty say `loss.ortho_weight=0`, the others have theirs from the config."""
    found = compare_arms(sweep, ["loss.weighting"], ["loss.ortho_weight=0.0"], {})
    assert len(found.seeds) == 2
    found = compare_arms(sweep, ["loss.ortho_weight", "loss.weighting"], ["tracker=off"], {})
    assert "loss.ortho_weight=3.0 loss.weighting=rates" in found.seeds


def test_one_table_for_all_arms(sweep, capsys):
    compare(sweep, *BY, "--equivalent", "mse=0.005", "ce_loss_score=0.01")
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if "core: " in line]
    assert len(lines) == 4
    c = next(line for line in lines if "ce_loss_score" in line and "co_activation" in line)
    for part in ("+0.0505", "…", "improvement", "±0.01: not worse", "<0.001"):
        assert part in c
    assert "±0.005: equivalent" in next(line for line in lines if "mse" in line and "co_a" in line)
    assert "±0.005: not shown" in next(line for line in lines if "mse" in line and "rates" in line)
    assert "No primary metric was fixed before these runs" in out


def test_the_primary_metric_comes_first_and_alone(sweep, capsys):
    fix(sweep, "mse")
    compare(sweep, *BY)
    out = capsys.readouterr().out
    first = next(line for line in out.splitlines() if "core: " in line)
    assert "mse (primary)" in first
    assert "mse was fixed as the primary metric on 2026-01-02T03:04:05+00:00" in out
    assert "Of 2 differences in metrics that are not primary" in out
    write_note(sweep, note_of(sweep)["jobs"][:-1], primary=note_of(sweep)["primary"])
    compare(sweep, *BY)
    out = capsys.readouterr().out
    assert "(primary)" not in out
    assert "the jobs are no longer those of that plan: it is not called primary" in out


def test_two_groups_of_one_sweep_have_its_primary_metric(sweep, capsys):
    fix(sweep, "mse")
    folders = [str(sweep / f"{n}_job") for n in range(8)]
    main(["compare", *folders[4:], "--against", *folders[:4]])
    assert "mse (primary)" in capsys.readouterr().out


def test_a_primary_metric_that_was_not_measured_is_said(sweep, capsys):
    fix(sweep, "absorption_full")
    compare(sweep, *BY)
    out = capsys.readouterr().out
    assert "absorption_full: the primary metric is not among the scores of these runs" in out


def test_files(sweep, tmp_path, capsys):
    files = {form: tmp_path / f"table.{form}" for form in ("csv", "latex", "markdown", "png")}
    compare(
        sweep, *BY, *(word for form, path in files.items() for word in (f"--{form}", str(path)))
    )
    out = capsys.readouterr().out
    assert all(f"written: {path}" in out for path in files.values())
    rows = list(csv.DictReader(files["csv"].open()))
    assert [row["arm"] for row in rows if row["metric"] == "core: mse"] == [
        "loss.weighting=co_activation",
        "loss.weighting=rates",
    ]
    exact = next(r for r in rows if r["metric"] == "core: mse" and r["arm"].endswith("rates"))
    assert float(exact["difference"]) == pytest.approx(0.05 + 0.0005 * (3 * 0.25 - 0.2), abs=1e-7)
    assert float(exact["low"]) < float(exact["difference"]) < float(exact["high"])
    assert float(exact["p"]) < float(exact["p_holm"]) < 0.05
    assert exact["margin"] == exact["low_seeds_and_texts"] == ""
    assert float(exact["detectable"]) > 0
    assert r"\begin{tabular}" in files["latex"].read_text()
    assert "| core: mse | loss.weighting=rates |" in files["markdown"].read_text()
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def keep_resamples(sweep, scale=0.1, units=50):
    """Leave each run a score with its resamples: every run has the same texts, of some weight."""
    texts = np.random.default_rng(0).normal(size=(3, 200))
    for n in range(12):
        folder = sweep / f"{n}_job"
        score = 0.5 + 0.001 * n + 0.0001 * n**2
        options = {"options": {"tpp": {}}}
        results = json.loads((folder / "results.json").read_text())
        results["tasks results"] = {"scores": {"tpp_x": score}, **options}
        (folder / "results.json").write_text(json.dumps(results))
        values = list(score + scale * texts[n // 4])
        content = {**options, "details": {}, "intervals": {}, "scores": {}}
        content["resampled"] = {"tpp_x": {"units": units, "values": values}}
        (folder / "eval").mkdir(exist_ok=True)
        (folder / "eval" / "tasks_tpp.json").write_text(json.dumps(content))


def test_intervals_for_other_texts_where_runs_have_kept_their_resamples(sweep, capsys):
    keep_resamples(sweep)
    found = compare_arms(sweep, ["loss.weighting"], ["tracker=off"], {})
    places = [n for n, f in enumerate(found.rows) if f.row.name == "tpp_x"]
    assert list(found.over_texts) == places
    interval, test = found.over_texts[places[0]], found.rows[places[0]].row.test
    assert interval.mean == pytest.approx(test.mean)
    assert interval.error_of_units == pytest.approx(0.1 * 2**0.5, rel=0.15)
    assert interval.low < test.low - 0.2
    compare(sweep, *BY)
    out = capsys.readouterr().out
    assert "… and texts: the interval for other texts, too" in out
    line = next(line for line in out.splitlines() if "tpp_x" in line and "rates" in line)
    assert line.count("…") == 2


def test_resamples_of_other_texts_are_not_combined(sweep):
    keep_resamples(sweep)
    path = sweep / "5_job/eval/tasks_tpp.json"
    content = json.loads(path.read_text())
    content["resampled"]["tpp_x"]["units"] = 49
    path.write_text(json.dumps(content))
    found = compare_arms(sweep, ["loss.weighting"], ["tracker=off"], {})
    assert [found.rows[n].arm for n in found.over_texts] == ["loss.weighting=rates"]
    path.write_text("{")
    found = compare_arms(sweep, ["loss.weighting"], ["tracker=off"], {})
    assert [found.rows[n].arm for n in found.over_texts] == ["loss.weighting=rates"]


def test_what_has_not_finished_is_said(sweep, capsys):
    (sweep / "11_job" / "run.json").write_text('{"status": "running", "config": {}}')
    compare(sweep, *BY)
    out = capsys.readouterr().out
    assert "not finished, left out: 1 jobs" in out
    assert "loss.weighting=rates: without a partner, left out: seed 4" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (BY[:2], "needs FOLDER... --against FOLDER..., or SWEEP --by KEY --baseline OVERRIDE"),
        ([], "needs FOLDER... --against FOLDER..., or SWEEP --by KEY --baseline OVERRIDE"),
        ([*BY, "--against", "x"], "needs FOLDER... --against"),
        (["--by", "loss.no", *BY[2:]], "--by=loss.no: no run of"),
        ([*BY[:2], "--baseline", "tracker=x"], "--baseline=tracker=x: no finished run of"),
        ([*BY[:2], "--baseline", "model.name=tiny"], "all finished runs of"),
        ([*BY[:2], "--baseline", "tracker"], "must be overrides, such as tracker=off"),
        (
            ["--by", "model.name", *BY[2:]],
            "seed 1 twice (4_job, 8_job); add loss.weighting to --by",
        ),
        ([*BY, "--equivalent", "mse"], "--equivalent=mse: must be METRIC=MARGIN"),
        ([*BY, "--equivalent", "mse=-1"], "must be METRIC=MARGIN with a positive number"),
        ([*BY, "--equivalent", "l1=1"], "--equivalent=l1: no score of these runs has that name"),
        ([*BY, "--csv", "no/where.csv"], "--csv=no/where.csv: there is no such folder"),
        ([*BY, "--png", "no/where.png"], "--png=no/where.png: there is no such folder"),
    ],
)
def test_refused_in_one_line(sweep, words, message, capsys):
    assert message in refused(capsys, sweep, *words)


def test_a_folder_of_nothing(tmp_path, capsys):
    assert "holds neither a run nor a sweep" in refused(capsys, tmp_path, *BY)


def test_a_narrow_terminal_has_the_columns_that_count(sweep):
    compared = compare_arms(sweep, ["loss.weighting"], ["tracker=off"], {})
    file = io.StringIO()
    print_comparison(compared, Console(file=file, force_terminal=True, width=100))
    out = file.getvalue()
    assert "more columns in --csv, --markdown and --latex FILE" in out
    assert "p (Holm)" in out
    assert "detectable" not in out.split("more columns")[0]
