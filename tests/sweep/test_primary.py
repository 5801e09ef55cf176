"""The primary metric of a sweep: fixed before the first job begins, with all that was planned."""

import json
from datetime import UTC, datetime

import pytest

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.report.primary import primary_of
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.primary import checked_metric, fix_primary

JOBS = [["loss.ortho_weight=0", "seed=1"], ["loss.ortho_weight=3", "seed=1"]]


@pytest.fixture
def sweep(tmp_path):
    folder = SweepFolder(tmp_path)
    plan(folder, JOBS)
    return folder


def plan(folder, jobs):
    folder.plan("launch", "basic", jobs, lambda number, overrides: f"{number}_job")


def begin(folder, number=0):
    (folder.path / f"{number}_job").mkdir()


def test_it_is_noted_with_the_time_and_the_hash_of_the_plan(sweep):
    before = datetime.now(UTC).replace(microsecond=0)
    told = fix_primary(sweep, "absorption_full")
    noted = json.loads((sweep.path / "sweep.json").read_text())["primary"]
    assert noted["metric"] == "absorption_full"
    assert before <= datetime.fromisoformat(noted["fixed"]) <= datetime.now(UTC)
    assert noted["sha256"][:12] in told
    found = primary_of(sweep.path)
    assert (found.counts, found.sha256) == ("absorption_full", noted["sha256"])


def test_the_same_plan_goes_on_with_what_was_fixed(sweep):
    fix_primary(sweep, "absorption_full")
    begin(sweep)
    first = primary_of(sweep.path)
    plan(sweep, [[*reversed(JOBS[1]), "debug=true"], JOBS[0]])  # free options, another order
    assert first == primary_of(sweep.path)
    assert "before the first job began" in fix_primary(sweep, "absorption_full")
    assert first == primary_of(sweep.path)


def test_before_a_job_has_begun_it_may_change(sweep):
    fix_primary(sweep, "absorption_full")
    first = primary_of(sweep.path)
    fix_primary(sweep, "ce_loss_score")
    plan(sweep, [*JOBS, ["loss.ortho_weight=9", "seed=1"]])
    assert primary_of(sweep.path).counts is None
    fix_primary(sweep, "ce_loss_score")
    found = primary_of(sweep.path)
    assert found.counts == "ce_loss_score"
    assert found.sha256 != first.sha256


def test_once_a_job_has_begun_it_is_too_late(sweep):
    begin(sweep)
    with pytest.raises(RunError, match=r"1 of 2 have begun in .* and none was fixed"):
        fix_primary(sweep, "absorption_full")
    assert primary_of(sweep.path) is None


def test_another_one_is_refused_then(sweep):
    fix_primary(sweep, "absorption_full")
    begin(sweep)
    with pytest.raises(RunError, match="and absorption_full was fixed"):
        fix_primary(sweep, "ce_loss_score")


def test_more_seeds_after_the_start_are_another_plan(sweep):
    """Else seeds could be added until the test says what was hoped for."""
    fix_primary(sweep, "absorption_full")
    begin(sweep)
    plan(sweep, [*JOBS, ["loss.ortho_weight=3", "seed=2"]])
    assert "it is not called primary" in fix_primary(sweep, "absorption_full")
    assert primary_of(sweep.path).counts is None


@pytest.mark.parametrize("wrong", ["no_such", "", 3, True, "tpp_total_threshold_*", ["l0"]])
def test_what_is_no_metric_is_refused(wrong):
    with pytest.raises(InvalidOption, match=r"hydra.sweeper.primary"):
        checked_metric(wrong)
    assert checked_metric("tpp_total_threshold_20") == "tpp_total_threshold_20"
