"""`logger=wandb`, with W&B's calls recorded: what a person finds there, and what they are told."""

import json
import os
import re
import struct
from pathlib import Path

import pytest
import wandb

from temporal_sae import signals
from temporal_sae.training import Checkpoints
from temporal_sae.training.loggers import About, JsonlLogger
from temporal_sae.training.wandb_logger import WandbLogger, kept_id
from tests.test_cli import small

SECRET = "0123456789abcdef0123456789abcdef01234567"
WANDB = ["logger=wandb", "hydra.run.dir=r"]


class Run:
    """A run at W&B, which refuses what the fixture says."""

    def __init__(self, server, options):
        self.server, self.options = server, options
        self.rows, self.summary, self.exit_code = [], {}, None
        self.offline = options["mode"] == "offline"
        self.url = None if self.offline else f"https://wandb.ai/me/p/runs/{options['id']}"
        self.dir = str(Path(options["dir"], "wandb", f"run-{options['id']}", "files"))
        known = server.history.get(options["id"], []) if options["resume"] else []
        self.starting_step = known[-1] + 1 if known else 0

    def log(self, metrics, step):
        if self.server.fails == "log":
            raise RuntimeError(f"no connection with {SECRET}\nmore")
        self.rows.append((step, metrics))
        self.server.history.setdefault(self.options["id"], []).append(step)

    def finish(self, exit_code):
        if self.server.fails == "finish":
            raise RuntimeError("gone")
        assert self.exit_code is None
        self.exit_code = exit_code


class Server:
    def __init__(self):
        self.runs, self.history, self.fails = [], {}, None

    def init(self, **options):
        if self.fails == "init" and options["mode"] == "online":
            raise RuntimeError(f"401 for {SECRET}")
        self.runs.append(Run(self, options))
        return self.runs[-1]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    server = Server()
    monkeypatch.setattr(wandb, "init", server.init)
    return server


def steps_in(folder):
    return [
        json.loads(line)["step"] for line in Path(folder, "metrics.jsonl").read_text().splitlines()
    ]


def test_a_run_is_there_with_its_name_tags_evaluation_and_address(command, random_gemma, server):
    code, out, err = command(*small(random_gemma), *WANDB, "objective=ce_loss_score")
    assert code == 0, err
    assert len(server.runs) == 1, out
    run = server.runs[0]
    assert [step for step, _ in run.rows] == steps_in("r")
    assert run.exit_code == 0
    assert run.options["tags"] == ["TopKSAE", "CoActivationTracker", "OrthogonalityLoss"]
    assert "model.hook_name=blocks.1.hook_resid_post" in run.options["name"]
    assert "hydra" not in run.options["name"]
    assert len(run.options["name"]) <= 128
    assert run.options["group"] is None
    core = json.loads(Path("r/results.json").read_text())["core evaluation results"]["metrics"]
    score = core["model_performance_preservation"]["ce_loss_score"]
    assert run.summary["core/ce_loss_score"] == run.summary["objective"] == score
    assert "co-activation/co_activation_entropy" in run.summary
    table = run.summary["results"]
    assert table.columns == ["metric", "this run"]
    assert ["CE score", f"{score:.3f}"] in table.data
    assert f"wandb: {run.url}" in out
    assert SECRET not in out + err


def test_a_failed_job_is_closed_as_such_and_the_next_has_its_own_run(
    command, random_gemma, server, monkeypatch
):
    real = JsonlLogger.log

    def fails_for_the_first(self, step, metrics):
        if step == 8 and "seed=1" in str(self.path):
            raise OSError(5, "Input/output error", "metrics.jsonl")
        real(self, step, metrics)

    monkeypatch.setattr(JsonlLogger, "log", fails_for_the_first)
    options = [*small(random_gemma), "logger=wandb", "hydra.sweep.dir=sweeps/mine"]
    assert command("-m", "seed=1,2", *options)[0] == 4
    assert [run.exit_code for run in server.runs] == [1, 0]
    assert len({run.options["id"] for run in server.runs}) == 2
    assert {run.options["group"] for run in server.runs} == {"mine"}
    assert [run.options["name"] for run in server.runs] == ["0_seed=1", "1_seed=2"]


def test_the_console_is_recorded_where_a_run_has_it_for_itself(command, random_gemma, server):
    options = [*small(random_gemma), "logger=wandb"]
    assert command(*options, "hydra.run.dir=r")[0] == 0
    assert command("-m", *options, "loss.ortho_weight=0.1,0.2", "hydra.sweep.dir=s")[0] == 0
    consoles = [run.options["settings"].console for run in server.runs]
    assert consoles == [wandb.Settings().console, "off", "off"]


def test_a_continued_run_keeps_its_id_and_nothing_is_there_twice_or_missing(
    command, random_gemma, server, monkeypatch
):
    options = [*small(random_gemma), *WANDB, "trainer.checkpoint_every=4", "trainer.log_every=1"]
    save = Checkpoints.save

    def killed(self, step, state):
        if step == 8:
            raise signals.Terminated  # no checkpoint of this step, as after a kill
        return save(self, step, state)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", killed)
        assert command(*options)[0] == 143
    first = server.runs[0]
    assert (first.exit_code, steps_in("r")) == (143, list(range(1, 9)))
    server.history[first.options["id"]] = list(range(1, 7))  # the last of what it sent got lost
    assert command(*options)[0] == 0
    second = server.runs[1]
    assert second.options["id"] == first.options["id"]
    assert server.history[first.options["id"]] == steps_in("r") == list(range(1, 17))
    assert command(*options, "overwrite=true")[0] == 0
    assert server.runs[2].options["id"] != first.options["id"]


def test_an_offline_part_is_the_whole_run(command, random_gemma, server, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = [*small(random_gemma), "trainer.log_every=1", "trainer.checkpoint_every=4"]
    real = JsonlLogger.log

    def stops(self, step, metrics):
        real(self, step, metrics)
        if step == 6:
            raise signals.Terminated

    with monkeypatch.context() as patch:
        patch.setattr(JsonlLogger, "log", stops)
        assert command(*options, "hydra.run.dir=r")[0] == 143  # with logger=jsonl
    _, out, _ = command(*options, *WANDB)
    run = server.runs[-1]
    assert [step for step, _ in run.rows] == steps_in("r") == list(range(1, 17))
    assert f"wandb: offline; to upload it: wandb sync {Path(run.dir).parent}" in out


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_what_fails_at_wandb_is_said_once_and_changes_nothing(command, random_gemma, server, fails):
    server.fails = fails
    code, out, err = command(*small(random_gemma), *WANDB)
    assert code == 0, err
    assert out.count("the run goes on with metrics.jsonl") == 1
    assert SECRET not in out + err
    assert json.loads(Path("r/run.json").read_text())["status"] == "finished"
    if fails == "init":
        assert server.runs[0].options["mode"] == "offline"
        assert len(server.runs[0].rows) == len(steps_in("r"))


REFUSED = {
    "a project that is null": (
        ["logger.wandb.project=null"],
        {},
        "logger.wandb.project=None: must be a name",
    ),
    "empty": (["logger.wandb.project=''"], {}, "logger.wandb.project='': must be a name"),
    "a path": (
        ["logger.wandb.project=me/mine"],
        {},
        "logger.wandb.project='me/mine': must be a name",
    ),
    "online without a key": (
        [],
        {"WANDB_MODE": "online", "WANDB_API_KEY": "", "HOME": "/nowhere"},
        "WANDB_MODE=online: needs a key",
    ),
    "a mode that is none": ([], {"WANDB_MODE": "onlin"}, "WANDB_MODE=onlin: must be one of online"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    command, random_gemma, server, monkeypatch, case
):
    options, environment, message = REFUSED[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, _, err = command("model=hf", "model.name=/no", "model.hook_name=x", *WANDB, *options)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert server.runs == []
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.slow
def test_wandb_itself_takes_it_offline(command, random_gemma, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for seed in (1, 2):
        code, out, err = command(
            *small(random_gemma),
            "logger=wandb",
            f"seed={seed}",
            "hydra.run.dir=r",
            "overwrite=true",
        )
        assert code == 0, err
        folder = Path(out.split("wandb sync ")[1].splitlines()[0])
        assert list(folder.glob("*.wandb"))
        assert wandb.run is None


def history_of(folder):
    """(step, metrics) of each line in the file of an offline run: a LevelDB log of protobufs."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, place, content, found = path.read_bytes(), 7, b"", []
    while place < len(data):
        if (left := 32768 - place % 32768) < 7:  # no header fits into the rest of a block
            place += left
            continue
        length, kind = struct.unpack("<4xHB", data[place : place + 7])
        content += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record, content = Record.FromString(content), b""
            if record.WhichOneof("record_type") == "history":
                items = {(i.key or i.nested_key[0]): i.value_json for i in record.history.item}
                own = {key: json.loads(v) for key, v in items.items() if key[0] != "_"}
                found.append((record.history.step.num, own))
    return found


def test_two_runs_that_are_open_at_once_have_each_their_own_metrics(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    about = About(config={group: {"_target_": "a.B"} for group in ("sae", "tracker", "loss")})
    (tmp_path / "sweep.json").touch()
    loggers = [WandbLogger(tmp_path / name) for name in ("0_a", "1_b")]
    for logger in loggers:
        logger.folder.mkdir()
        logger.start(about)
    for step in (1, 2):
        for n, logger in enumerate(loggers):
            logger.log(step, {"loss": float(10 * n + step)})
    loggers[1].finish(0)
    loggers[0].log(3, {"loss": 3.0})  # the end of one is not that of the other
    loggers[0].summarise({"objective": 0.5})
    loggers[0].finish(0)
    wandb.teardown()  # its process writes what is left
    first, second = (history_of(tmp_path / name) for name in ("0_a", "1_b"))
    assert first == [(1, {"loss": 1.0}), (2, {"loss": 2.0}), (3, {"loss": 3.0})]
    assert second == [(1, {"loss": 11.0}), (2, {"loss": 12.0})]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"0" * 10**6])
def test_an_id_that_is_none_is_made_anew(tmp_path, content):
    path = tmp_path / "id"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    assert re.fullmatch("[0-9a-f]{16}", kept_id(tmp_path))
    assert kept_id(tmp_path) == path.read_text().strip()
