"""Which evaluations run, what is skipped, and what a failure leaves; the worker is a stand-in."""

import threading
import time

import pytest
from filelock import FileLock

from temporal_sae.activations import Harvest
from temporal_sae.data import TextFiles
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval import EvaluationFiles, Subject
from temporal_sae.eval.saebench import SAEBenchEvaluation, evaluation
from temporal_sae.eval.saebench.evaluation import kept_artifacts
from temporal_sae.sae import TopKSAE

RECORDS = {
    "scr": {
        "eval_result_metrics": {"scr_metrics": {}},
        "eval_result_details": [],
        "eval_result_unstructured": {"tied_pairs": []},
    },
    "tpp": {"eval_result_metrics": {"tpp_metrics": {}}},
    "absorption": {"eval_result_metrics": {"mean": {}}, "eval_result_details": []},
}


class Workers:
    """Takes the jobs that would go to the subprocess."""

    def __init__(self):
        self.jobs, self.fail = [], {}

    def __call__(self, job, work, log, data_folder, seconds=None):
        assert work.is_dir()
        self.jobs.append(job)
        if job.evaluation in self.fail:
            raise self.fail[job.evaluation]
        return RECORDS[job.evaluation]

    def names(self):
        names = [job.evaluation for job in self.jobs]
        self.jobs.clear()
        return names


@pytest.fixture
def workers(monkeypatch):
    workers = Workers()
    monkeypatch.setattr(evaluation, "run_worker", workers)
    return workers


@pytest.fixture
def said():
    return []


@pytest.fixture
def subject(small_model, text_folder, tmp_path, said):
    sae = TopKSAE(16, 32, k=4)
    sae.save(tmp_path / "sae")
    files = EvaluationFiles(tmp_path / "eval", {"sae": 1})
    return Subject(
        sae=sae,
        sae_folder=tmp_path / "sae",
        source=Harvest(context_size=16, model=small_model, text=TextFiles(str(text_folder))),
        files=files,
        say=said.append,
    )


def test_they_run_in_a_fixed_order_and_once(workers, subject, said):
    outcome = SAEBenchEvaluation(evals=("absorption", "scr", "tpp")).run(subject)
    assert workers.names() == ["scr", "tpp", "absorption"]
    assert not outcome.failures and len(outcome.sections) == 3
    again = SAEBenchEvaluation(evals=("scr", "tpp", "absorption")).run(subject)
    assert workers.names() == []
    assert again.sections == outcome.sections
    assert said[-1] == "saebench absorption (3 of 3): done before"


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1},
        {"llm_batch_size": 4},
        {"llm_dtype": "bfloat16"},
        {"scr": {"n_values": [2]}},
        {"model_name": "gpt2"},
    ],
)
def test_other_options_are_another_result(workers, subject, options):
    SAEBenchEvaluation(evals=("scr",)).run(subject)
    SAEBenchEvaluation(evals=("scr",), **options).run(subject)
    assert workers.names() == ["scr", "scr"]


def test_options_of_another_evaluation_do_not_matter(workers, subject):
    SAEBenchEvaluation(evals=("scr",)).run(subject)
    SAEBenchEvaluation(evals=("scr",), tpp={"n_values": [2]}, timeout_minutes=9).run(subject)
    assert workers.names() == ["scr"]


def test_a_failure_leaves_the_others_and_is_repeated(workers, subject, said, tmp_path):
    workers.fail = {"scr": RunError("no rows"), "absorption": RunError("no letters")}
    outcome = SAEBenchEvaluation(evals=("scr", "tpp", "absorption")).run(subject)
    assert outcome.failures == {"saebench scr": "no rows", "saebench absorption": "no letters"}
    assert list(outcome.sections) == ["tpp evaluations results"]
    assert any("failed after" in line for line in said)
    workers.names()
    workers.fail = {}
    outcome = SAEBenchEvaluation(evals=("scr", "tpp", "absorption")).run(subject)
    assert workers.names() == ["scr", "absorption"] and not outcome.failures
    assert [p.name for p in (tmp_path / "eval" / "saebench").glob("*.running")] == []


def test_an_interrupt_goes_through_and_leaves_no_folder(workers, subject, tmp_path):
    workers.fail = {"tpp": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        SAEBenchEvaluation(evals=("scr", "tpp")).run(subject)
    assert [p.name for p in (tmp_path / "eval" / "saebench").glob("*.running")] == []
    assert not (tmp_path / "eval" / "saebench_tpp.json").exists()


def test_the_job(workers, subject):
    SAEBenchEvaluation(evals=("scr",), model_name="gpt2", llm_batch_size=3, seed=5).run(subject)
    job = workers.jobs[0]
    assert (job.model_name, job.llm_dtype, job.llm_batch_size, job.seed) == (
        "gpt2",
        "float32",
        3,
        5,
    )
    assert (job.layer, job.hook_name) == (1, "blocks.1.hook_resid_post")
    assert job.sae_set == "gpt2_layer_1_sae"
    assert not job.keep_artifacts and job.artifacts.endswith("scr.running/kept")


def test_artifacts_are_kept_for_the_next_sae(workers, subject, tmp_path):
    options = {"evals": ("scr",), "artifacts_path": str(tmp_path / "kept")}
    SAEBenchEvaluation(**options).run(subject)
    first = workers.jobs[-1]
    assert first.keep_artifacts
    (tmp_path / "kept" / first.artifacts / "acts.pt").touch()
    subject.files.folder.joinpath("done.json").unlink()
    SAEBenchEvaluation(**options, scr={"n_values": [2]}).run(subject)
    assert workers.jobs[-1].artifacts == first.artifacts
    assert (tmp_path / "kept" / first.artifacts / "acts.pt").exists()
    SAEBenchEvaluation(**options, scr={"probe_epochs": 2}).run(subject)
    assert workers.jobs[-1].artifacts != first.artifacts


def test_artifacts_of_a_writer_that_was_stopped_are_made_again(workers, subject, tmp_path):
    options = {"evals": ("scr",), "artifacts_path": str(tmp_path / "kept")}
    workers.fail = {"scr": RunError("killed")}
    SAEBenchEvaluation(**options).run(subject)
    half = tmp_path / "kept" / workers.jobs[-1].artifacts / "acts.pt"
    half.touch()
    workers.fail = {}
    SAEBenchEvaluation(**options).run(subject)
    assert not half.exists() and half.parent.is_dir()


def test_artifacts_are_waited_for(workers, subject, said, tmp_path):
    folder = tmp_path / "kept" / "scr-0"
    folder.parent.mkdir()
    taken = threading.Event()

    def hold():
        with FileLock(f"{folder}.lock"):
            taken.set()
            time.sleep(0.2)

    threading.Thread(target=hold).start()
    assert taken.wait(5)
    with kept_artifacts(folder, said.append):
        assert said == [f"waiting for another process that uses {folder}"]
        assert folder.is_dir()
    with FileLock(f"{folder}.lock", timeout=0):
        pass


def test_one_process_at_a_time(workers, subject):
    folder = subject.files.folder / "saebench"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"), pytest.raises(RunError, match="another process"):
        SAEBenchEvaluation(evals=("scr",)).run(subject)
    assert workers.names() == []


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"evals": ()}, "evals"),
        ({"evals": "core"}, "evals"),
        ({"evals": ("cores",)}, "evals"),
        ({"llm_dtype": "int8"}, "llm_dtype"),
        ({"llm_batch_size": 0}, "llm_batch_size"),
        ({"seed": -1}, "seed"),
        ({"timeout_minutes": 0}, "timeout_minutes"),
        ({"data_folder": "/nowhere/at/all"}, "data_folder"),
        ({"core": {"contextsize": 3}}, "core.contextsize"),
        ({"tpp": {"n_values": [7]}}, "tpp.n_values"),
    ],
)
def test_bad_options(options, option):
    with pytest.raises(InvalidOption) as caught:
        SAEBenchEvaluation(**options)
    assert caught.value.option == option
