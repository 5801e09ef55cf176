"""Every kind of file that is read back, damaged, before every command that reads it."""

import hashlib
import json
import os
import shutil
from dataclasses import replace

import pytest
from rich.console import Console
from safetensors.torch import save

from temporal_sae.errors import RunError
from temporal_sae.eval import EvaluationFiles
from temporal_sae.eval.__main__ import main as evaluate
from temporal_sae.experiment.evaluate import evaluate_run
from temporal_sae.experiment.folder import RunFolder
from temporal_sae.report import build_report
from temporal_sae.report.__main__ import main as report
from temporal_sae.report.sweep_summary import say_last_words
from temporal_sae.schemas import CoreScores
from temporal_sae.sweep.__main__ import main as sweep
from temporal_sae.sweep.status import read_sweep
from tests.report.test_build import RESULTS
from tests.test_config_surface import composed

STREAM = {"_target_": "temporal_sae.activations.Harvest", "context_size": 32}
CONFIG = {
    "model": {"_target_": "temporal_sae.activations.LanguageModel", "name": "tiny"},
    "data": {"_target_": "temporal_sae.data.StdlibText"},
    "activations": STREAM,
    "trainer": {"num_tokens": 1000, "batch_size": 100},
}
RECORD = {
    "status": "finished",
    "reason": "none",
    "config": CONFIG,
    "seed": 1,
    "command": "python launch.py",
    "device": "cpu",
    "tokens_per_second": 5.0,
    "peak_memory_bytes": {"host": 2**30},
}
TASKS = {"options": {"scr": {}}, "scores": {"scr_metric": 0.5}, "intervals": {"scr_metric": None}}
ALL_RESULTS = RESULTS | {"tasks results": TASKS, "core evaluation results": {"metrics": {"a": {}}}}
NOTE = {
    "command": "python launch.py -m",
    "launcher": "basic",
    "jobs": [{"number": 0, "folder": "0_a", "overrides": ["a=1"], "slurm_job": None}],
}
LINE = {"step": 5, "loss": 0.5, "tokens_per_second": 10.0}
NO_FILES = ("folder", "fifo", "loop")
ESCAPES = '"\\u001b[31m\\u0007\\ud800\\u0000\\n"'
WRONG = (
    *("null", "5", "-1", "2.5", "true", '"x"', '""', "[]", "{}", "NaN", "-Infinity", "1e999"),
    *("9" * 400, "9" * 5000, str(2**63), "-" + str(2**63 + 1), ESCAPES),
    *("[" * 60 + "]" * 60, '{"a":' * 60 + "1" + "}" * 60, "[" * 5000, '[{"a": 1}]'),
)


def damages(content):
    """Texts that a file with this content may have become."""
    text = json.dumps(content)
    yield from (b"", b"\n", text[: len(text) // 2].encode(), b"\xff\xfe" + text.encode())
    yield text.encode().replace(b'"', b"\xff", 1)
    yield from (wrong.encode() for wrong in WRONG)
    for n, place in enumerate(places(content)):
        yield without(content, place)
        yield from (replaced(content, place, wrong) for wrong in WRONG[n % 3 :: 3])
    yield replaced({**content, "\x1b[31m": 0}, ("\x1b[31m",), ESCAPES)


def places(content):
    """Keys of a dictionary and of those in it, and the first entry of a list in it."""
    for key, value in content.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, inner) for inner in value)
        elif isinstance(value, list):
            yield (key, 0)
            yield from ((key, 0, inner) for inner in value[0])


def replaced(content, place, text):
    """The JSON of `content` with the text of something else at a place."""
    changed = json.loads(json.dumps(content))
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = "HERE"
    return json.dumps(changed).replace('"HERE"', text).encode()


def without(content, place):
    """The JSON of `content` without what is at a place."""
    changed = json.loads(json.dumps(content))
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    return json.dumps(changed).encode()


def put(path, damage):
    """Put a damaged file, or something that is no file, in the place of a file."""
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    if damage == "folder":
        path.mkdir()
    elif damage == "fifo":
        os.mkfifo(path)
    elif damage == "loop":
        path.symlink_to(path.name)
    else:
        path.write_bytes(damage)


@pytest.fixture
def job(tmp_path):
    """A finished run in a sweep of one job."""
    folder = tmp_path / "sweep" / "0_a"
    (folder / "eval").mkdir(parents=True)
    (folder.parent / "sweep.json").write_text(json.dumps(NOTE))
    (folder / "run.json").write_text(json.dumps(RECORD))
    (folder / "results.json").write_text(json.dumps(ALL_RESULTS))
    (folder / "metrics.jsonl").write_text(json.dumps(LINE) + "\n")
    return folder


def survives(capsys, damage, command, *arguments):
    """Call a command: it may refuse, in one line, and shows nothing that a terminal would obey."""
    shown, code = repr(damage)[:200], 0
    try:
        command(*arguments)
    except SystemExit as stop:
        code = stop.code
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error} with {shown}") from error
    out = capsys.readouterr()
    assert code in (0, 2, 4), shown
    assert (out.err.count("\n") == 1) if code == 2 else True, out.err
    assert not {"\x1b", "\x07", "\0"} & set(out.out + out.err), shown
    return code


FILES = {"run.json": RECORD, "results.json": ALL_RESULTS, "metrics.jsonl": LINE}


@pytest.mark.parametrize("name", FILES)
def test_the_table_of_a_sweep(job, capsys, name):
    every = 6 if name == "results.json" else 1  # there all its entries are treated alike
    for damage in [*list(damages(FILES[name]))[::every], *NO_FILES]:
        put(job / name, damage)
        assert survives(capsys, damage, sweep, [str(job.parent)]) in (0, 4)
        assert survives(capsys, damage, last_words, job.parent) == 0


def last_words(folder):
    """Print the last words of a sweep with two jobs that have left the same."""
    (status,) = read_sweep(folder)
    same = [replace(status, overrides=(f"sae.k={n}",), state="finished") for n in range(3)]
    say_last_words(folder, same, Console())


def test_the_note_of_a_sweep(job, capsys):
    for damage in [*damages(NOTE), *NO_FILES]:
        put(job.parent / "sweep.json", damage)
        survives(capsys, damage, sweep, [str(job.parent)])


@pytest.mark.parametrize("name", ["run.json", "results.json"])
def test_comparing_and_telling_of_runs(job, capsys, name):
    compared = ["compare", str(job), "--against", str(job)]
    for damage in [*damages(FILES[name]), *NO_FILES]:
        put(job / name, damage)
        survives(capsys, damage, report, compared)
        try:
            page = build_report(job)
            assert "\x1b" not in page.read_text() + page.with_name("notes.md").read_text()
        except RunError as error:
            assert name in str(error)


@pytest.fixture
def nothing_loads(monkeypatch):
    """The moment at which an evaluation would begin to work is the end of it."""

    def refuse(*arguments):
        raise RunError("the SAE would be loaded now")

    monkeypatch.setattr("temporal_sae.experiment.evaluate.load_sae", refuse)


@pytest.mark.parametrize("name", ["run.json", "results.json"])
def test_evaluating_a_run(job, nothing_loads, name):
    options = composed("eval=none")
    for damage in [*list(damages(FILES[name])), *NO_FILES]:
        put(job / name, damage)
        with pytest.raises(RunError) as refused:
            evaluate_run(job, options)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["cfg.json", "config.json"])
def test_evaluating_an_sae_from_elsewhere(tmp_path, capsys, nothing_loads, name):
    facts = {"model_name": "a", "hook_name": "b", "context_size": 5, "prepend_bos": True}
    trainer = {"lm_name": "a", "submodule_name": "resid_post_layer_1"}
    content = {"cfg.json": {"metadata": facts}, "config.json": {"trainer": trainer, "buffer": {}}}
    for damage in [*list(damages(content[name]))[::8], *NO_FILES]:
        put(tmp_path / name, damage)
        assert survives(capsys, damage, evaluate, [str(tmp_path)]) == 2


def test_claiming_the_folder_of_a_run(job):
    for damage in [*damages(RECORD), *NO_FILES]:
        put(job / "run.json", damage)
        run = RunFolder(job)
        try:
            run.claim(CONFIG, overwrite=False)
        except RunError as error:
            assert str(job) in str(error)
            assert "\n" not in str(error)
        run.release()


@pytest.mark.parametrize("name", ["done.json", "core.json"])
def test_what_an_evaluation_has_left_is_set_aside_and_made_again(tmp_path, name):
    files = EvaluationFiles(tmp_path, {})
    core = {"metrics": {"sparsity": {"l0": 1.0}}}
    content = {"done.json": {"core": files.digest({})}, "core.json": core}[name]
    for damage in [*damages(content), *NO_FILES]:
        files.write("core", {}, core)
        put(tmp_path / name, damage)
        found = files.find("core", {}, CoreScores)
        assert found is None or found["metrics"].keys() <= {"sparsity", "\x1b[31m"}
        files.write("core", {}, core)
        assert files.find("core", {}, CoreScores) == core
    assert any(path.is_dir() for path in tmp_path.glob(f"{name}.damaged*"))


def test_what_is_no_file_of_the_run_is_set_aside(job, caplog):
    put(job / "results.json", "folder")
    put(job / "metrics.jsonl", "fifo")
    put(job / "eval", b"a file")
    (job / "run.json").write_text(json.dumps({**RECORD, "status": "stopped"}))
    run = RunFolder(job)
    run.claim(CONFIG, overwrite=False)
    run.make_ready()
    left = {path.name for path in job.iterdir()}
    assert {"results.json.damaged", "metrics.jsonl.damaged", "eval.damaged"} <= left
    assert not {"results.json", "metrics.jsonl", "eval"} & left
    assert "eval is not a folder: kept as eval.damaged" in caplog.text


SMALL = (
    *("sae.d_sae=32", "sae.k=4", "trainer.num_tokens=512", "trainer.batch_size=64", "eval=none"),
    *("activations.buffer_tokens=256", "activations.context_size=32", "trainer.warmup_steps=1"),
    *("trainer.checkpoint_every=4", "hydra.run.dir=run"),
)


def test_a_run_is_continued_whatever_lies_where_its_files_should_be(
    command, random_gemma, tmp_path
):
    model = (f"model.name={random_gemma}", "model.hook_name=blocks.1.hook_resid_post")
    assert command(*SMALL, *model)[0] == 0
    run, checkpoints = tmp_path / "work" / "run", tmp_path / "work" / "run" / "checkpoints"
    weights = (run / "sae" / "sae_weights.safetensors").read_bytes()
    lines = (run / "metrics.jsonl").read_bytes()
    changed = json.loads((run / "run.json").read_text()) | {"status": "stopped"}
    (run / "run.json").write_text(json.dumps(changed))
    sorted(checkpoints.iterdir())[-1].unlink()
    (run / "metrics.jsonl").write_bytes(lines + b'{"step": 3\n\xff\xfe\n{"step": "x"}\n')
    for step, content in enumerate((b"garbage", b"", save({}), save({}, {"state": "[]"})), 100):
        digest = hashlib.sha256(content).hexdigest()[:16]
        (checkpoints / f"step_{step:09d}.{digest}.safetensors").write_bytes(content)
    (checkpoints / "step_000000099.0123456789abcdef.safetensors").mkdir()
    shutil.rmtree(run / "sae")
    (run / "sae").write_text("a file")
    code, out, error = command(*SMALL, *model)
    assert code == 0, error
    assert out.count("is damaged: removed") == 4
    assert "continuing at step 4 of 8" in out
    assert "3 broken lines are left out" in out
    assert (run / "sae" / "sae_weights.safetensors").read_bytes() == weights
    # And one that is whole and of another run.
    (run / "run.json").write_text(json.dumps(changed))
    content = save({}, {"state": json.dumps({"step": 5})})
    name = f"step_000000500.{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    (checkpoints / name).write_bytes(content)
    code, out, error = command(*SMALL, *model)
    assert (code, error.count("\n")) == (2, 1)
    assert "the newest checkpoint does not fit this run (it has no" in error
    assert (checkpoints / name).exists()
