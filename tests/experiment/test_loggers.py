"""Several loggers of one run: which there are, and what becomes of those that fail."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.experiment.loggers import build_loggers
from temporal_sae.training import (
    EndTable,
    JsonlLogger,
    Loggers,
    TensorBoardLogger,
    WandbLogger,
    logged_steps,
)
from tests.test_cli import small
from tests.test_config_surface import composed


class Kept:
    """Remembers what it is given."""

    def __init__(self, folder, colour="red"):
        self.colour, self.given = colour, []

    def start(self, about):
        self.given.append("start")

    def rewind(self, step):
        self.given.append(("rewind", step))

    def log(self, step, metrics):
        self.given.append((step, metrics))

    def summarise(self, metrics):
        self.given.append(metrics)

    def finish(self, exit_code):
        self.given.append(("finish", exit_code))


class Own(JsonlLogger):
    """Writes `metrics.jsonl` in its own way."""


def target(cls):
    return {"_target_": f"{cls.__module__}.{cls.__name__}"}


@pytest.mark.parametrize(
    "typed, others",
    [
        ([], {}),
        (["logger=jsonl"], {}),
        (["logger=[]"], {}),
        (["~logger"], {}),
        (["logger=wandb"], {"wandb": WandbLogger}),
        (["logger=tensorboard"], {"tensorboard": TensorBoardLogger}),
        (
            ["logger=[wandb,jsonl,tensorboard]", "logger.wandb.project=mine"],
            {"wandb": WandbLogger, "tensorboard": TensorBoardLogger},
        ),
    ],
)
def test_metrics_jsonl_is_written_in_any_case(typed, others, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    loggers = build_loggers(composed(*typed), tmp_path)
    assert {name: type(logger) for name, logger in loggers.others.items()} == others
    if "logger.wandb.project=mine" in typed:
        assert loggers.others["wandb"].project == "mine"
    loggers.others = {}
    loggers.rewind(0)
    loggers.log(3, {"loss": 0.5})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 3, "loss": 0.5}\n'


@pytest.mark.parametrize("typed", ["logger=[]", "~logger"])
def test_a_run_without_loggers_has_the_file(command, random_gemma, typed):
    code, _, err = command(*small(random_gemma), typed, "hydra.run.dir=r")
    assert (code, err) == (0, "")
    assert len(Path("r/metrics.jsonl").read_text().splitlines()) == 4


def test_steps_are_read_up_to_where_a_run_begins(tmp_path):
    assert list(logged_steps(tmp_path, 9)) == []
    rows = [{"step": n, "loss": n / 10} for n in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(logged_steps(tmp_path, 2)) == [(1, {"loss": 0.1}), (2, {"loss": 0.2})]


def test_an_experiment_may_choose_several(command, random_gemma, tmp_path):
    recipe = tmp_path / "conf" / "experiment" / "mine.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(
        "# @package _global_\ndefaults:\n  - override /logger: [jsonl, tensorboard]\n"
    )
    place = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    code, _, err = command(*small(random_gemma), place, "experiment=mine", "hydra.run.dir=r")
    assert (code, err) == (0, "")
    assert list(Path("r/tensorboard").iterdir())


def test_options_of_a_file_without_a_package_are_those_of_one_logger(tmp_path):
    options = {**target(Kept), "colour": "blue", "tensorboard": target(TensorBoardLogger)}
    loggers = build_loggers(OmegaConf.create({"logger": options}), tmp_path)
    assert list(loggers.others) == ["logger", "tensorboard"]
    assert loggers.others["logger"].colour == "blue"


def test_a_logger_of_ones_own_may_write_the_file(tmp_path):
    options = {"own": target(Own), "jsonl": target(JsonlLogger), "kept": target(Kept)}
    loggers = build_loggers(OmegaConf.create({"logger": options}), tmp_path)
    assert isinstance(loggers._jsonl, Own)
    assert list(loggers.others) == ["kept"]


REFUSED = {
    "two that write the file": (
        {"a": target(Own), "b": target(Own)},
        "logger=['a', 'b']: must be one of them alone",
    ),
    "no logger": ({"a": target(Path)}, "logger.a._target_="),
    "an unknown key": ({"a": {**target(Kept), "size": 1}}, "logger.a.size: unknown key"),
    "no options": ({"jsonl": target(JsonlLogger), "a": {"b": 1}}, "logger.a: unknown key"),
    "one word": ("jsonl", "logger='jsonl': must be options with a _target_"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_logger_is_refused(case, tmp_path):
    options, message = REFUSED[case]
    with pytest.raises((InvalidOption, RunError)) as caught:
        build_loggers(OmegaConf.create({"logger": options}), tmp_path)
    assert str(caught.value).startswith(message)


def test_one_that_fails_is_left_out_and_the_others_go_on(tmp_path, caplog):
    class Failing(Kept):
        def log(self, step, metrics):
            raise ValueError("no\nmore")

    failing, kept = Failing("."), Kept(".")
    loggers = Loggers(JsonlLogger(tmp_path), {"failing": failing, "kept": kept})
    loggers.rewind(0)
    for step in (1, 2):
        loggers.log(step, {"loss": 1.0})
    loggers.summarise({"score": 2.0})
    loggers.tabulate(lambda: pytest.fail("nobody takes it"))
    loggers.finish(0)
    assert failing.given == [("rewind", 0), ("finish", 1)]
    steps = [(step, {"loss": 1.0}) for step in (1, 2)]
    assert kept.given == [("rewind", 0), *steps, {"score": 2.0}, ("finish", 0)]
    assert [r.message for r in caplog.records] == [
        "failing: ValueError: no more; the run goes on with metrics.jsonl"
    ]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_the_file_itself_is_the_run(tmp_path):
    loggers = Loggers(JsonlLogger(tmp_path / "gone"), {})
    with pytest.raises(FileNotFoundError):
        loggers.log(1, {})


def test_the_table_goes_to_those_that_take_it(tmp_path):
    class Taking(Kept):
        def tabulate(self, table):
            self.given.append(table)

    table = EndTable(["metric"], [["L0"]], "| metric |")
    taking, other = Taking("."), Kept(".")
    Loggers(JsonlLogger(tmp_path), {"a": taking, "b": other}).tabulate(lambda: table)
    assert (taking.given, other.given) == ([table], [])
