"""`eval=tasks` as a whole: sections, files, what is done once, and what fails alone."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from temporal_sae.activations import Harvest
from temporal_sae.data import TextFiles
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval import CoreEvaluation, EvaluationFiles, Subject
from temporal_sae.eval.tasks import (
    SparseProbing,
    SpuriousCorrelationRemoval,
    TargetedProbePerturbation,
    TasksEvaluation,
)
from temporal_sae.metrics import find_objective
from temporal_sae.sae import TopKSAE

CONF = Path(__file__).parents[3] / "conf" / "eval" / "tasks.yaml"
POOLED = ["sparse_probing", "scr", "tpp"]
SMALL = {"train_rows": 8, "test_rows": 5, "n_resamples": 20}


def evaluation(tasks=POOLED, **options):
    return TasksEvaluation(
        tasks=tasks,
        batch_texts=8,
        sparse_probing=SparseProbing(k_values=[1, 4], **SMALL),
        scr=SpuriousCorrelationRemoval(n_values=[2, 5], **SMALL),
        tpp=TargetedProbePerturbation(n_values=[2, 5], **SMALL),
        core=CoreEvaluation(4, 6, 10),
        **options,
    )


def source_of(model, folder):
    text = TextFiles(str(folder), held_out_fraction=0.5)
    source = Harvest(context_size=16, lm_batch_size=4, buffer_tokens=64, model=model, text=text)
    source.open()
    return source


@pytest.fixture
def subject(small_model, text_folder, tmp_path):
    torch.manual_seed(0)
    said = []
    source = source_of(small_model, text_folder)
    files = EvaluationFiles(tmp_path / "eval", {"sae": "one"})
    sae = TopKSAE(16, 32, k=4)
    return Subject(sae, tmp_path / "sae", source, files, say=said.append)


def said(subject):
    return subject.say.__self__


def test_sections_and_files(subject):
    task = evaluation()
    outcome = task.run(subject)
    assert not outcome.failures
    assert list(outcome.sections) == ["core evaluation results", "tasks results"]
    section = outcome.sections["tasks results"]
    names = {m.name for m in task.metrics} - {m.name for m in task.core.metrics}
    assert set(section["scores"]) == set(section["intervals"]) == names
    assert set(section["details"]) == set(section["options"]) == set(POOLED)
    for name, score in section["scores"].items():
        low, high = section["intervals"][name]
        assert low <= high
        assert find_objective(name, json.loads(json.dumps(outcome.sections))) == score
    for task_name in POOLED:
        content = json.loads((subject.files.folder / f"tasks_{task_name}.json").read_text())
        assert set(content) == {"scores", "intervals", "details", "options", "resampled"}
        for name, drawn in content["resampled"].items():
            assert drawn["units"] > 1
            within = np.quantile(drawn["values"], [0, 1])
            assert within[0] <= content["scores"][name] <= within[1]
        assert content["scores"].items() <= section["scores"].items()
    assert [line.split(":")[0] for line in said(subject)] == [f"tasks_{t}" for t in POOLED]


def test_what_is_done_is_not_done_again(subject, monkeypatch):
    first = evaluation().run(subject)
    said(subject).clear()
    again = evaluation().run(subject)
    assert json.dumps(again.sections) == json.dumps(first.sections)
    assert not said(subject)
    # One option of one task: that task alone.
    changed = dataclasses.replace(
        evaluation(), tpp=TargetedProbePerturbation(n_values=[2, 5], **SMALL, seed=1)
    )
    other = changed.run(subject).sections["tasks results"]["scores"]
    assert [line.split(":")[0] for line in said(subject)] == ["tasks_tpp"]
    before = first.sections["tasks results"]["scores"]
    assert other["scr_metric_threshold_2"] == before["scr_metric_threshold_2"]


def test_a_task_that_fails_leaves_the_others(subject, monkeypatch):
    def refuse(self, activations):
        raise RunError("there is no such probe")

    monkeypatch.setattr(SpuriousCorrelationRemoval, "run", refuse)
    outcome = evaluation().run(subject)
    assert outcome.failures == {"tasks_scr": "there is no such probe"}
    scores = outcome.sections["tasks results"]["scores"]
    assert not any(name.startswith("scr") for name in scores)
    assert any(name.startswith("tpp") for name in scores)
    monkeypatch.undo()
    said(subject).clear()
    assert not evaluation().run(subject).failures
    assert [line.split(":")[0] for line in said(subject)] == ["tasks_scr"]


def test_tasks_alone_give_what_they_give_together(subject, tmp_path):
    together = evaluation().run(subject).sections["tasks results"]["scores"]
    for task in reversed(POOLED):
        files = EvaluationFiles(tmp_path / task, {})
        alone = evaluation([task]).run(dataclasses.replace(subject, files=files))
        scores = alone.sections["tasks results"]["scores"]
        assert scores == {name: together[name] for name in scores}


def test_checks_name_the_task(small_model, text_folder):
    source = source_of(small_model, text_folder)

    def check(d_sae=32, **options):
        task = dataclasses.replace(evaluation(), **options)
        task.check(source, TopKSAE(16, d_sae, k=2))

    check()
    with pytest.raises(InvalidOption, match=r"^sparse_probing.k_values=\[1, 4\]: must be at most"):
        check(d_sae=3)
    with pytest.raises(InvalidOption, match=r"^scr.n_values=\[2, 500\]"):
        check(scr=SpuriousCorrelationRemoval(n_values=[2, 500], **SMALL))
    with pytest.raises(InvalidOption, match=r"^tpp.train_rows=90000: .* of package \w+ in the"):
        check(tpp=TargetedProbePerturbation(n_values=[2], train_rows=90_000))
    # What is not asked for is not checked.
    check(tasks=["tpp"], scr=SpuriousCorrelationRemoval(n_values=[2, 500], **SMALL))


@pytest.mark.parametrize("tasks", [[], "scr", ["scr", "unlearning"], None])
def test_unknown_tasks(tasks):
    with pytest.raises(InvalidOption, match="tasks"):
        evaluation(tasks)


def test_metric_names_follow_the_options():
    names = {m.name for m in evaluation(["sparse_probing", "tpp"]).metrics}
    assert {"sparse_probing_package_sae_top_4", "tpp_total_threshold_5", "ce_loss_score"} <= names
    assert "sparse_probing_package_sae_top_5" not in names
    assert not any(name.startswith("scr") for name in names)
    stable = {
        *("sparse_probing_package_sae_top_5", "sparse_probing_kind_llm_all"),
        *("scr_metric_threshold_10", "tpp_total_threshold_10", "tpp_unintended_threshold_500"),
        *("absorption_full", "absorption_fraction", "downstream_selectivity"),
    }
    assert stable <= {m.name for m in TasksEvaluation().metrics}


def as_lists(value):
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def test_the_yaml_holds_every_option_with_its_default():
    config = OmegaConf.load(CONF)
    built = instantiate(config, _convert_="all")
    assert as_lists(dataclasses.asdict(built)) == as_lists(dataclasses.asdict(TasksEvaluation()))
    for name in ("snippets", "core", *built.tasks):
        keys = {str(key) for key in config[name]} - {"_target_"}
        assert keys == {field.name for field in dataclasses.fields(getattr(built, name))}


SCRIPT = """
import sys
from pathlib import Path
from temporal_sae.activations import LanguageModel
from temporal_sae.eval import EvaluationFiles, Subject
from temporal_sae.sae import load_sae
from tests.eval.tasks.test_evaluation import evaluation, source_of
model, text, sae, out = map(Path, sys.argv[1:])
source = source_of(LanguageModel(str(model), "blocks.1.hook_resid_post"), text)
subject = Subject(load_sae(sae), sae, source, EvaluationFiles(out, {}))
assert not evaluation().run(subject).failures
"""


@pytest.mark.slow
def test_another_process_agrees_to_the_bit(random_gemma, subject, text_folder, tmp_path):
    subject.sae.save(tmp_path / "sae")
    evaluation().run(subject)
    out = tmp_path / "out"
    subprocess.run(
        [sys.executable, "-c", SCRIPT, random_gemma, text_folder, tmp_path / "sae", out],
        check=True,
        cwd=CONF.parents[2],
    )
    here, there = (
        {file.name: file.read_bytes() for file in sorted(folder.glob("tasks_*.json"))}
        for folder in (subject.files.folder, out)
    )
    assert len(here) == 3
    assert here == there
