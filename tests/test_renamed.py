"""Names of earlier versions: answered when typed, and read as the new ones from folders."""

import json

import pytest
from omegaconf import OmegaConf

from temporal_sae import renamed, schemas
from tests.test_config_surface import composed


@pytest.mark.parametrize(
    "override, current",
    [
        ("loss=separation", "loss=orthogonality"),
        ("loss.weighting=none,only", "loss.weighting=co_activation,instability_only"),
        ("++eval.n_sparsity_windows=4", "++eval.n_sparsity_sequences=4"),
        ("tracker.window_size=2", "tracker.window_size=2"),
        ("~eval.batch_windows", "~eval.lm_batch_size"),
        ("data.path='a=none'", "data.path='a=none'"),
        ("logger.project=mine", "logger.wandb.project=mine"),
    ],
)
def test_overrides_as_they_would_be_typed_today(override, current):
    assert renamed.current_override(override) == current


def test_a_config_as_it_would_be_written_today():
    old = {
        "seed": 1,
        "loss": {"_target_": "x", "weighting": "average"},
        "activations": {"batch_windows": 3},
        "eval": {"core": {"n_sparsity_windows": 2}, "weighting": "none"},
        "logger": {"_target_": "y", "project": "mine"},
    }
    assert renamed.current_config(old) == {
        "seed": 1,
        "loss": {"_target_": "x", "weighting": "long_average"},
        "activations": {"lm_batch_size": 3},
        "eval": {"core": {"n_sparsity_sequences": 2}, "weighting": "none"},
        "logger": {"_target_": "y", "project": "mine"},
    }


def test_every_new_name_is_one_that_the_config_has():
    for key in renamed.KEYS.values():
        group = ["eval=tasks"] if key.startswith("eval.core") else []
        loggers = ["logger=[jsonl,wandb]"] if key.startswith("logger.") else []
        assert OmegaConf.select(composed(*group, *loggers), key) is not None, key


def test_files_of_earlier_versions_are_read_with_current_names(tmp_path):
    record = {"status": "stopped", "config": {"eval": {"batch_windows": 2}}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert schemas.read(tmp_path / "run.json", schemas.RunRecord)["config"] == {
        "eval": {"lm_batch_size": 2}
    }
    jobs = [{"number": 0, "folder": "0_x", "overrides": ["loss=separation"]}]
    note = {"command": "", "launcher": "basic", "jobs": jobs}
    (tmp_path / "sweep.json").write_text(json.dumps(note))
    read = schemas.read(tmp_path / "sweep.json", schemas.SweepNote)
    assert read["jobs"][0]["overrides"] == ["loss=orthogonality"]
