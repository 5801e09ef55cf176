"""The folder of a sweep: jobs keep their numbers and folders, and one sweep at a time."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.errors import RunError
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.states import Outcome, State


@pytest.fixture
def sweep(tmp_path):
    return SweepFolder(tmp_path)


def plan(sweep, *jobs, **options):
    wanted = [job.split() for job in jobs]
    return sweep.plan("command", "basic", wanted, lambda n, overrides: f"{n}_x", **options)


def failed(sweep, number, reason):
    sweep.states.write(number, State(outcome=Outcome(reason)))


def numbers(jobs):
    return [job.number for job in jobs]


def test_the_same_command_finds_its_jobs_and_more_values_add_jobs(sweep):
    assert numbers(plan(sweep, "a=1 b=2", "a=3 b=2")) == [0, 1]
    assert numbers(plan(sweep, "a=3 b=2", "a=1 b=2")) == [1, 0]
    assert numbers(plan(sweep, "a=0 b=2", "b=2 a=1", "a=3 b=2")) == [2, 0, 1]
    assert [job.folder for job in sweep.jobs()] == ["0_x", "1_x", "2_x"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.permutations(["a=1", "a=2", "a=3", "a=4"]), min_size=1, max_size=4), st.data())
def test_no_job_ever_changes_its_number(tmp_path_factory, orders, data):
    sweep, seen = SweepFolder(tmp_path_factory.mktemp("sweep")), {}
    for order in orders:
        wanted = [o for o in order if o in seen or data.draw(st.booleans())]
        for job in plan(sweep, *wanted) if wanted else []:
            place = job.number, job.folder
            assert seen.setdefault(job.overrides[0], place) == place
    assert sorted(number for number, _ in seen.values()) == list(range(len(seen)))


def test_options_that_change_no_result_do_not_make_another_job(sweep):
    plan(sweep, "a=1")
    (job,) = plan(sweep, "device=cuda overwrite=true a=1 debug=true")
    assert job.number == 0
    assert job.overrides == ("device=cuda", "overwrite=true", "a=1", "debug=true")


def test_another_sweep_is_refused_and_nothing_is_changed(sweep):
    plan(sweep, "a=1 c=0", "a=2 c=0")
    before = (sweep.path / "sweep.json").read_bytes()
    told = r"another sweep \(1 of its 2 jobs .*, such as a=1\); choose"
    with pytest.raises(RunError, match=told):
        plan(sweep, "a=2 c=0", "a=3 c=0")
    assert (sweep.path / "sweep.json").read_bytes() == before
    assert numbers(plan(sweep, "a=3 c=0", all_of_them=False)) == [2]


def test_a_mistake_that_kept_a_job_from_starting_may_be_corrected(sweep):
    plan(sweep, "a=1", "a=oops", "a=2")
    failed(sweep, 1, "a='oops': must be a number")
    assert numbers(plan(sweep, "a=1", "a=2", "a=3")) == numbers(sweep.jobs()) == [0, 2, 3]
    failed(sweep, 2, "killed by SIGKILL")
    (sweep.path / "2_x").mkdir()
    with pytest.raises(RunError, match="such as a=2"):
        plan(sweep, "a=1", "a=3")


def test_two_jobs_in_one_folder_are_refused(sweep):
    told = r"hydra.sweep.subdir=here: must differ between jobs 0 and 1"
    with pytest.raises(RunError, match=told):
        sweep.plan("command", "basic", [["a=1"], ["a=2"]], lambda n, overrides: "here")
    assert not sweep.exists()


def test_notes_on_the_sweep_stay_through_a_new_plan(sweep):
    plan(sweep, "a=1", "a=2")
    sweep.note("best", {"number": 1})
    plan(sweep, "a=1", "a=2")
    assert sweep.read()["best"] == {"number": 1}


def test_configs_come_back_as_they_were_but_for_numbers_that_json_has_not(sweep):
    config = {"a": {"lr": math.inf, "text": "\udcff ü", "none": None, "list": [1, 2.0, True]}}
    sweep.path.mkdir(exist_ok=True)
    sweep.write_configs({3: config, 10: {"a": {"seed": 10**30, "n": -(10**400)}}})
    assert sweep.configs() == {3: config, 10: {"a": {"seed": 1e30, "n": -math.inf}}}


def test_one_sweep_at_a_time_holds_the_folder(sweep):
    with sweep.held():
        with pytest.raises(RunError, match="another sweep is running in this folder"):
            SweepFolder(sweep.path).held().__enter__()
        assert (sweep.path / ".lock").exists()
    assert list(sweep.path.iterdir()) == []
    with SweepFolder(sweep.path).held():
        pass


def test_a_note_that_is_damaged_is_one_line(sweep):
    (sweep.path / "sweep.json").write_text("{")
    with pytest.raises(RunError, match=r"sweep.json: cannot be read .*choose another"):
        sweep.jobs()


@pytest.mark.parametrize(
    "name", ["/etc", "..", "../..", "a/../../b", "", ".", "a\0b", "\ud800", "x" * 300]
)
def test_no_job_has_its_folder_outside_the_sweeps(sweep, name):
    with pytest.raises(RunError, match=r"hydra.sweep.subdir=.*: must be a folder below"):
        sweep.plan("command", "basic", [["a=1"]], lambda n, overrides: name)
    plan(sweep, "a=1")
    note = sweep.read()
    note["jobs"][0]["folder"] = name
    (sweep.path / "sweep.json").write_text(json.dumps(note))
    with pytest.raises(RunError, match=r"jobs\.0\.folder=.*: must be a folder below the sweep's"):
        sweep.jobs()


@pytest.mark.parametrize(("key", "value"), [("number", 0), ("folder", "0_x"), ("folder", "./0_x/")])
def test_a_note_with_one_place_for_two_jobs_is_refused(sweep, key, value):
    plan(sweep, "a=1", "a=2")
    note = sweep.read()
    note["jobs"][1][key] = value
    (sweep.path / "sweep.json").write_text(json.dumps(note))
    with pytest.raises(RunError, match=rf"jobs\.1\.{key}={value!r}: must be no other job's"):
        sweep.jobs()


@pytest.mark.parametrize("number", ["--version", "../../x", "12_", ""])
def test_an_id_that_is_none_of_slurms_is_refused(sweep, number):
    plan(sweep, "a=1")
    sweep.note("slurm_job", number)
    with pytest.raises(RunError, match=r"slurm_job=.*: must be an id such as 12"):
        sweep.jobs()
