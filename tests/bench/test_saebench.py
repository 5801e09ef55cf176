"""The real sae_bench on our SAEs, offline: tiny models by the names of Pythia and Gemma-2."""

import json
import os
import random
import re
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("sae_bench", reason="needs the bench extra")

from temporal_sae.eval.saebench import evaluation as evaluation_module
from temporal_sae.eval.saebench.evaluation import MAIN_EVALUATIONS
from temporal_sae.experiment import run_experiment
from tests.bench.standins import GEMMA, PYTHIA, SHIM, build_main, more, texts
from tests.bench.standins.saes import (
    HOOK,
    SMALL,
    small_evaluation,
    subject,
    toy_sae,
)
from tests.test_config_surface import composed

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(SHIM), str(ROOT)])
TIMES = {"eval_id", "datetime_epoch_millis"}
MINUTES = 3
THERE = ("sparse_probing", "scr", "absorption")
UNKNOWN_CLASS = "eval.scr.column1_vals_lookup={LabHC/bias_in_bios_class_set1:[[professor,wizard]]}"
TEMPORAL = (
    "experiment=temporal_run_1",
    "sae.k=8",
    "tracker.window_size=500",
)
PUBLISHED = json.loads((Path(__file__).parent / "standins" / "published_keys.json").read_text())


# ---- three processes at the same time: the five main evaluations from here, three of them from a
# command, and a whole run on Gemma-2


@pytest.fixture(scope="module")
def all_of_it(tmp_path_factory):
    """What the three have left; the command fails at SCR."""
    folder = tmp_path_factory.mktemp("all")
    hub = build_main(folder / "hub")
    more.questions(hub)
    more.wikitext(hub)
    overrides = of_the_run(folder, hub)
    for name in ("here", "there"):
        (folder / name).mkdir()
    subject(toy_sae(), folder / "there", hub)
    given = subject(toy_sae(), folder / "here", hub)
    packages = listing(site_packages())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        temporal = [*overrides, *TEMPORAL, "eval.evals=[core,scr,absorption,unlearning]"]
        where = f"hydra.run.dir={folder / 'temporal'}"
        run = start(["launch.py", *temporal, where], PYTHONPATH=PATHS)
        some = f"eval.evals=[{','.join(THERE)}]"
        command = start(command_for(folder / "there", hub, some, UNKNOWN_CLASS))
        asked = small_evaluation(hub, *MAIN_EVALUATIONS)
        asked.check(given.source, given.sae)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        outcome = asked.run(given)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = [process.communicate(timeout=900)[0] for process in (command, run)]
    assert run.returncode == 0, said[1]
    return SimpleNamespace(
        hub=hub,
        here=folder / "here",
        there=folder / "there",
        temporal=folder / "temporal",
        overrides=overrides,
        subject=given,
        outcome=outcome,
        sections=json.loads(json.dumps(outcome.sections)),
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        exit_code=command.returncode,
        said=said[0],
        new_in_packages=listing(site_packages()) - packages,
    )


def of_the_run(folder, hub):
    """Overrides that make any experiment a toy on the Gemma-2 stand-in."""
    corpus = more.corpus(folder / "corpus.jsonl")
    ids = more.question_ids(folder / "ids")
    (folder / "text").mkdir()
    rng = random.Random(5)
    for n in range(4):
        (folder / "text" / f"{n}.txt").write_text(texts.text(rng, n_words=800))
    return [
        "data=text_files",
        f"data.path={folder / 'text'}",
        f"model.name={hub / GEMMA}",
        f"model.hook_name={HOOK}",
        "model.dtype=float32",
        "activations.context_size=32",
        "activations.buffer_tokens=512",
        "sae.d_sae=128",
        "trainer.num_tokens=4096",
        "trainer.batch_size=256",
        "trainer.warmup_steps=2",
        f"eval.model_name={GEMMA}",
        "eval.llm_dtype=bfloat16",
        f"eval.data_folder={hub}",
        f"eval.unlearning.corpus={corpus}",
        f"eval.unlearning.question_ids={ids}",
        "eval.unlearning.dataset_size=16",
        "eval.unlearning.seq_len=64",
        "eval.unlearning.retain_thresholds=[0.01]",
        "eval.unlearning.n_features_list=[5]",
        "eval.unlearning.multipliers=[50]",
        *sizes(),
    ]


def site_packages():
    import sae_bench

    return Path(sae_bench.__path__[0])


def listing(folder):
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*"))
    return {p for p in found if "__pycache__" not in p}


def command_for(folder, hub, *more):
    """Evaluate `folder/sae` from the command line at the sizes of `small_evaluation`."""
    options = [
        "eval=saebench",
        "model=hf",
        f"model.name={hub / PYTHIA}",
        f"model.hook_name={HOOK}",
        "data=text_files",
        f"data.path={folder / 'text'}",
        "activations.context_size=16",
        f"eval.model_name={PYTHIA}",
        f"eval.data_folder={hub}",
        f"eval.artifacts_path={folder / 'kept'}",
    ]
    options += sizes()
    return ["-m", "temporal_sae.eval", str(folder / "sae"), *options, *more]


def sizes():
    """The small sizes as overrides."""
    return [
        f"eval.{name}.{key}={unquoted(value)}"
        for name, options in SMALL.items()
        for key, value in options.items()
    ]


def unquoted(value):
    return json.dumps(value).replace('"', "").replace(" ", "")


def start(arguments, **environment):
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def results(folder):
    return json.loads((folder / "results.json").read_text())


def without_times(value):
    """The same, but for what is different each time."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def test_the_five_run_in_time(all_of_it):
    assert all_of_it.outcome.failures == {}
    assert list(all_of_it.sections) == [
        "core evaluation results",
        "scr and tpp evaluations results",
        "tpp evaluations results",
        "sparse probing evaluation results",
        "absorption evaluation results",
    ]
    assert all_of_it.cpu_seconds < 60 * MINUTES  # not the clock: others may use the cores


def test_records_are_saebenchs(all_of_it):
    from pydantic import TypeAdapter
    from sae_bench.evals.absorption.eval_output import AbsorptionEvalOutput
    from sae_bench.evals.scr_and_tpp.eval_output import ScrEvalOutput, TppEvalOutput
    from sae_bench.evals.sparse_probing.eval_output import SparseProbingEvalOutput

    classes = {
        "absorption": AbsorptionEvalOutput,
        "scr": ScrEvalOutput,
        "tpp": TppEvalOutput,
        "sparse_probing": SparseProbingEvalOutput,
    }
    for name in MAIN_EVALUATIONS:
        record = json.loads((all_of_it.here / "eval" / f"saebench_{name}.json").read_text())
        assert record["sae_bench_commit_hash"] == version("sae-bench")
        assert record["sae_cfg_dict"]["hook_name"] == HOOK
        assert record["eval_config"]["model_name"] == PYTHIA
        if name in classes:
            TypeAdapter(classes[name]).validate_python(record)


def test_scores_mean_something(all_of_it):
    """The stand-ins hold topics and letters, and so do the SAE's latents."""
    sections = all_of_it.sections
    probing = sections["sparse probing evaluation results"]["eval_result_metrics"]
    assert probing["llm"]["llm_test_accuracy"] > 0.85
    assert probing["sae"]["sae_top_5_test_accuracy"] > 0.8
    both = sections["scr and tpp evaluations results"]["eval_result_metrics"]
    assert both["tpp_metrics"]["tpp_threshold_20_total_metric"] > 0.02
    assert "scr_dir1_threshold_20" in both["scr_metrics"]
    mean = sections["absorption evaluation results"]["eval_result_metrics"]["mean"]
    assert 0 < mean["mean_absorption_score"] < 1
    assert len(sections["absorption evaluation results"]["eval_result_details"]) >= 20


def test_a_failure_leaves_the_others_and_sets_the_exit_code(all_of_it):
    assert all_of_it.exit_code == 3, all_of_it.said
    assert re.search("error: .*/sae: eval saebench scr: .*'wizard'", all_of_it.said)
    assert [*results(all_of_it.there / "sae")] == [
        "sparse probing evaluation results",
        "absorption evaluation results",
    ]


def test_the_same_numbers_in_another_process(all_of_it):
    """There the artifacts were kept, here they were not."""
    done = [name for name in THERE if name != "scr"]
    for name in done:
        file = Path("eval", f"saebench_{name}.json")
        here, there = ((all_of_it.here / file), (all_of_it.there / "sae" / file))
        assert without_times(json.loads(here.read_text())) == without_times(
            json.loads(there.read_text())
        )
    kept = [p for p in (all_of_it.there / "kept").iterdir() if p.is_dir()]
    finished = [p.name.split("-")[0] for p in kept if not (p / ".unfinished").exists()]
    assert sorted(finished) == sorted(done)
    assert len(kept) == len(THERE)  # and SCR's, which has failed


def test_nothing_is_left_and_nothing_is_done_twice(all_of_it, monkeypatch):
    folder = all_of_it.here / "eval" / "saebench"
    assert {p.name for p in folder.iterdir()} - {".lock"} == {
        f"{name}.log" for name in MAIN_EVALUATIONS
    }
    assert all_of_it.new_in_packages == set()
    monkeypatch.setattr(evaluation_module, "run_worker", None)
    again = small_evaluation(all_of_it.hub, *MAIN_EVALUATIONS).run(all_of_it.subject)
    assert again.sections == all_of_it.sections


# ---- the published results


def missing_keys(expected, found, path=""):
    """Paths of keys that are published and not found."""
    if isinstance(expected, list):
        return missing_keys(expected[0], found[0], f"{path}[0]") if found else [path]
    if not isinstance(expected, dict):
        return []
    missing = []
    for key, below in expected.items():
        own = key.replace("layer 12", "layer 2")
        if own not in found:
            missing.append(f"{path}/{own}")
        else:
            missing += missing_keys(below, found[own], f"{path}/{own}")
    return missing


def test_every_published_key_is_in_a_run_of_temporal_run_1(all_of_it):
    found = results(all_of_it.temporal)
    assert missing_keys(PUBLISHED["temporal_run_1"], found) == []
    assert found["core evaluation results"]["sae_set"] == f"{GEMMA}_layer_2_sae"
    for name in ("scr evaluations", "absorption evaluation", "unlearning evaluation"):
        section = found[f"{name} results"]
        assert section["sae_cfg_dict"]["dtype"] == "bfloat16"
        assert section["eval_config"]["llm_dtype"] == "bfloat16"
    assert json.loads((all_of_it.temporal / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("experiment", "option"),
    [("baseline_standard", "sae.l1_weight=0.1"), ("baseline_topk", "sae.k=8")],
)
def test_every_published_key_is_in_a_run_of_a_baseline(
    all_of_it, monkeypatch, tmp_path, experiment, option
):
    """With its own training and its own sections; the records are those of the runs above."""

    def record(job, *_):
        name = f"saebench_{job.evaluation}.json"
        folders = (all_of_it.here / "eval", all_of_it.temporal / "eval")
        return next(json.loads((f / name).read_text()) for f in folders if (f / name).exists())

    monkeypatch.setattr(evaluation_module, "run_worker", record)
    overrides = [*all_of_it.overrides, f"experiment={experiment}", option]
    run_experiment(composed(*overrides), tmp_path / "run", overrides)
    assert missing_keys(PUBLISHED[experiment], results(tmp_path / "run")) == []
