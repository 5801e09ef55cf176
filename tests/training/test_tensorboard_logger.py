"""`logger=tensorboard`: what TensorBoard itself reads in the folder of a run."""

import json
import math
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from temporal_sae import signals
from temporal_sae.eval.__main__ import evaluate
from temporal_sae.training import Checkpoints, tensorboard_logger
from temporal_sae.training.loggers import About, EndTable
from temporal_sae.training.tensorboard_logger import TensorBoardLogger
from tests.test_cli import small

RUN = ["logger=tensorboard", "hydra.run.dir=r"]


class Read:
    """Return what TensorBoard finds in a folder of events."""

    def __init__(self, folder):
        everything = {"scalars": 0, "tensors": 0}
        self._events = EventAccumulator(str(folder), size_guidance=everything).Reload()
        self.names = self._events.Tags()["scalars"]

    def scalars(self, name):
        return {event.step: event.value for event in self._events.Scalars(name)}

    def steps(self, name):
        return [event.step for event in self._events.Scalars(name)]

    def times(self, name):
        return [event.wall_time for event in self._events.Scalars(name)]

    def texts(self, name):
        events = self._events.Tensors(name)
        return [(e.step, e.tensor_proto.string_val[0].decode()) for e in events]


def read(run="r"):
    return Read(Path(run, "tensorboard"))


def rows_of(run="r"):
    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    return {row.pop("step"): row for row in map(json.loads, lines)}


def test_a_run_is_there_with_its_metrics_evaluation_table_and_config(command, random_gemma):
    code, _, err = command(*small(random_gemma), *RUN, "objective=ce_loss_score")
    assert (code, err) == (0, "")
    found, rows = read(), rows_of()
    assert {name for name in found.names if name.startswith("train/")} == {
        f"train/{name}" for name in rows[16]
    }
    for name in rows[16]:
        logged = {step: row[name] for step, row in rows.items() if name in row}
        assert found.scalars(f"train/{name}") == pytest.approx(logged)
    core = json.loads(Path("r/results.json").read_text())["core evaluation results"]["metrics"]
    score = pytest.approx(core["model_performance_preservation"]["ce_loss_score"])
    assert found.scalars("eval/core/ce_loss_score") == {16: score}
    assert found.scalars("eval/objective") == {16: score}
    assert "eval/co-activation/co_activation_entropy" in found.names
    ((step, config),) = found.texts("config")
    assert step == 0
    assert '"d_sae": 64' in config
    ((step, table),) = found.texts("results")
    assert step == 16
    assert table in Path("r/notes.md").read_text()
    assert "| CE score |" in table


def test_it_changes_nothing_else_that_a_run_leaves(command, random_gemma):
    options = small(random_gemma)
    assert command(*options, *RUN)[0] == 0
    assert command(*options, "hydra.run.dir=other/r")[0] == 0
    left, right = ({p.name for p in Path(run).iterdir()} for run in ("r", "other/r"))
    assert left - right == {"tensorboard"}
    weights = "sae/sae_weights.safetensors"
    assert Path("r", weights).read_bytes() == Path("other/r", weights).read_bytes()
    slow = ("seconds", "tokens_per_second")
    for own, others in zip(rows_of().values(), rows_of("other/r").values(), strict=True):
        assert list(own) == list(others)
        assert {k: v for k, v in own.items() if not k.startswith(slow)} == {
            k: v for k, v in others.items() if not k.startswith(slow)
        }


def killed_after(monkeypatch, command, options, step):
    """Begin a run that ends at this step without a checkpoint of it, as after a kill."""
    save = Checkpoints.save

    def killed(self, at, state):
        if at == step:
            raise signals.Terminated
        return save(self, at, state)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", killed)
        assert command(*options)[0] == 143


@pytest.mark.parametrize("first", ["tensorboard", "jsonl"])
def test_a_continued_run_has_every_step_once(command, random_gemma, monkeypatch, first):
    options = [*small(random_gemma), "trainer.checkpoint_every=4", "trainer.log_every=1"]
    killed_after(monkeypatch, command, [*options, *RUN, f"logger={first}"], 8)
    if first == "tensorboard":
        assert read().steps("train/loss") == list(range(1, 9))
    assert command(*options, *RUN)[0] == 0
    found, rows = read(), rows_of()
    assert found.steps("train/loss") == list(rows) == list(range(1, 17))
    assert found.scalars("train/loss") == {n: pytest.approx(r["loss"]) for n, r in rows.items()}
    times = found.times("train/loss")
    assert times == sorted(times)
    assert times[0] < times[3]
    assert [step for step, _ in found.texts("config")] == [0]


def test_a_tensorboard_that_looks_on_forgets_what_is_done_again(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.rewind(0)
    for step in (1, 2, 3):
        logger.log(step, {"loss": 1.0})
    on_looker = read(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    second = TensorBoardLogger(tmp_path)
    second.rewind(1)
    second.log(2, {"loss": 2.0})
    on_looker._events.Reload()
    assert on_looker.scalars("train/loss") == {1: 1.0, 2: 2.0}
    assert read(tmp_path).scalars("train/loss") == {1: 1.0, 2: 2.0}
    for _ in range(3):
        TensorBoardLogger(tmp_path).rewind(1)
    assert len(list(Path(tmp_path, "tensorboard").iterdir())) == 2


def test_an_overwritten_run_begins_anew(command, random_gemma):
    options = [*small(random_gemma), *RUN]
    assert command(*options)[0] == 0
    assert command(*options, "overwrite=true", "trainer.log_every=8")[0] == 0
    assert read().steps("train/loss") == [8, 16]
    assert command(*options, "overwrite=true", "logger=jsonl")[0] == 0
    assert not Path("r/tensorboard").exists()


def test_steps_that_are_written_again_have_the_times_of_training(tmp_path):
    rates = [100.0, 50.0, 25.0]  # tokens a second, of 100 tokens each
    rows = [
        {"step": n, "tokens": 100 * n, "tokens_per_second": rate} for n, rate in enumerate(rates, 1)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    logger = TensorBoardLogger(tmp_path)
    logger.rewind(3)
    logger.finish(0)
    first, second, third = read(tmp_path).times("train/tokens")
    assert (second - first, third - second) == pytest.approx((2.0, 4.0), abs=0.1)
    assert third == pytest.approx(time.time(), abs=60)


def test_jobs_side_by_side_have_each_their_own(command, random_gemma):
    options = [*small(random_gemma), "logger=[jsonl,tensorboard]", "hydra.sweep.dir=s"]
    assert command("-m", *options, "loss.ortho_weight=0.1,0.2")[0] == 0
    folders = sorted(Path("s").glob("*/tensorboard"))
    assert len(folders) == 2
    for folder in folders:
        found = Read(folder).scalars("train/loss")
        rows = rows_of(folder.parent)
        assert found == {step: pytest.approx(row["loss"]) for step, row in rows.items()}


def test_a_later_evaluation_is_added(command, random_gemma):
    options = [option for option in small(random_gemma) if not option.startswith("eval.")]
    unjudged = ["eval=none", "objective=final_loss"]
    assert command(*options, *unjudged, "hydra.run.dir=r")[0] == 0
    with Path("r/metrics.jsonl").open("a") as file:
        file.write("broken")
    before = Path("r/metrics.jsonl").read_bytes()
    smaller = ["eval.n_reconstruction_sequences=4", "eval.n_sparsity_sequences=4"]
    assert evaluate(Path("r"), ["eval=core", *smaller]) == {}
    assert Path("r/metrics.jsonl").read_bytes() == before
    assert evaluate(Path("r"), ["eval=core", *smaller, "logger=tensorboard"]) == {}
    assert Path("r/metrics.jsonl").read_bytes() == before.removesuffix(b"broken")
    found = read()
    assert found.steps("train/loss") == [4, 8, 12, 16]
    assert found.steps("eval/core/ce_loss_score") == [16]
    objective = json.loads(Path("r/run.json").read_text())["objective"]
    assert found.scalars("eval/objective") == {16: pytest.approx(objective)}
    assert len(found.texts("results")) == 1


@pytest.mark.parametrize("fails", ["__init__", "scalars", "text", "close"])
def test_what_fails_is_said_once_and_changes_nothing(command, random_gemma, monkeypatch, fails):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensorboard_logger.EventFile, fails, full)
    code, out, err = command(*small(random_gemma), *RUN)
    assert (code, err) == (0, "")
    assert out.count("the run goes on with metrics.jsonl") == 1
    assert "tensorboard: " in out
    assert "No space left on device" in out
    assert json.loads(Path("r/run.json").read_text())["status"] == "finished"
    assert list(rows_of()) == [4, 8, 12, 16]


def test_without_tensorboard_it_is_refused_before_anything_is_loaded(command, monkeypatch):
    monkeypatch.setattr(tensorboard_logger, "find_spec", lambda name: None)
    code, _, err = command("model=hf", "model.name=/no", "model.hook_name=x", *RUN)
    needs = "needs TensorBoard (pip install 'temporal_sae[tensorboard]')"
    assert (code, err) == (2, f"error: logger=tensorboard: {needs}\n")
    assert list(Path.cwd().iterdir()) == []


def test_numbers_that_are_none_and_texts_are_kept_as_they_are(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.start(About({"name": "a ``` b", "lr": math.inf}))
    logger.rewind(0)
    logger.log(1, {"a": math.nan, "b": -math.inf})
    logger.tabulate(EndTable(["m"], [["λ"]], "| λ |"))
    logger.finish(0)
    found = read(tmp_path)
    assert math.isnan(found.scalars("train/a")[1])
    assert found.scalars("train/b") == {1: -math.inf}
    assert found.texts("results") == [(1, "| λ |")]
