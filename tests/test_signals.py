"""Stop signals end a program wherever it is: in imports, in a read that blocks, in training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import launch
from temporal_sae import signals
from temporal_sae.experiment import build
from temporal_sae.training.loggers import JsonlLogger
from tests.experiment.test_run import SMALL

ROOT = Path(launch.__file__).parent
PROGRAM = """
import os, signal, sys
from temporal_sae import signals
signals.hold()
{imports}
with signals.ending():
    {body}
    print("the end")
"""
SWALLOWED = "\n".join(
    ("try: os.kill(os.getpid(), signal.SIGTERM)", "    except: print('swallowed')")
)


def start(program, *arguments, **options):
    """A Python program with pipes for everything."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, *(["-c", program] if program else []), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.Popen(command, text=True, env=environment, **pipes, **options)


def ends_with(process, typed=""):
    """(exit code, stdout, stderr)."""
    out, error = process.communicate(typed, timeout=300)
    return process.returncode, out, error


@pytest.mark.parametrize("number", signals.STOP)
def test_a_signal_during_imports_is_obeyed_after_them(number):
    imports = f"os.kill(os.getpid(), {int(number)}); print('imported')"
    program = PROGRAM.format(imports=imports, body="pass")
    assert ends_with(start(program)) == (128 + number, "imported\n", "")


def test_a_second_signal_ends_an_import_that_hangs():
    program = PROGRAM.format(imports="print('reads', flush=True); sys.stdin.read()", body="pass")
    process = start(program)
    assert process.stdout.readline() == "reads\n"
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert process.returncode == 130
    assert process.stderr.read() == ""


def test_a_signal_that_a_bare_except_swallows_is_obeyed_at_the_next_safe_point():
    program = PROGRAM.format(imports="", body=SWALLOWED + "\n    signals.obey()")
    assert ends_with(start(program)) == (143, "swallowed\n", "")


def test_an_error_that_a_swallowed_signal_causes_is_no_traceback():
    program = PROGRAM.format(imports="", body=SWALLOWED + "\n    import no_such_module")
    assert ends_with(start(program)) == (143, "swallowed\n", "")


def test_a_read_that_blocks_ends_at_the_first_signal(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    body = f"print('reads', flush=True); open({str(tmp_path / 'fifo')!r}).read()"
    process = start(PROGRAM.format(imports="", body=body))
    assert process.stdout.readline() == "reads\n"
    process.send_signal(signal.SIGTERM)
    assert ends_with(process) == (143, "", "")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_program_that_lets_go_is_ended_as_any_other(when):
    kill = "os.kill(os.getpid(), signal.SIGTERM)"
    lines = ["signals.let_go()", "print('goes on', flush=True)"]
    lines.insert(0 if when == "before" else 2, kill)
    program = PROGRAM.format(imports="\n".join(lines), body="pass")
    assert ends_with(start(program)) == (-15, "" if when == "before" else "goes on\n", "")


def test_under_nohup_sighup_means_nothing():
    imports = "os.kill(os.getpid(), signal.SIGHUP)"
    program = PROGRAM.format(imports=imports, body=imports)
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    assert ends_with(start(program, preexec_fn=ignore)) == (0, "the end\n", "")


# A library that takes its time to import, and whose bare except takes what is raised in it.
SLOW = """
import sys
try:
    print("imports", flush=True)
    sys.stdin.readline()
except:
    pass
sys.path.remove({folder!r})
del sys.modules["{name}"]
import {name}
"""


@pytest.mark.parametrize(
    ("command", "library"),
    [
        ([str(ROOT / "launch.py")], "hydra"),
        pytest.param(["-m", "temporal_sae.eval", "."], "torch", marks=pytest.mark.slow),
        pytest.param(["-m", "temporal_sae.sweep", "."], "rich", marks=pytest.mark.slow),
    ],
)
def test_the_commands_obey_a_signal_of_their_first_seconds(command, library, tmp_path):
    (tmp_path / "libraries").mkdir()
    work = tmp_path / "work"
    work.mkdir()
    folder = str(tmp_path / "libraries")
    (tmp_path / "libraries" / f"{library}.py").write_text(SLOW.format(folder=folder, name=library))
    paths = {"PYTHONPATH": os.pathsep.join([folder, str(ROOT)])}
    process = start(None, *command, env=paths, cwd=work)
    assert process.stdout.readline() == "imports\n"
    process.send_signal(signal.SIGTERM)
    assert ends_with(process, "\n") == (143, "", "")
    assert list(work.iterdir()) == []


def test_a_signal_that_is_swallowed_while_a_run_is_built_ends_it(
    command, random_gemma, monkeypatch
):
    def swallow(name):
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:  # noqa: BLE001 - as libraries do it
            return real(name)

    real = build.choose_device
    monkeypatch.setattr(build, "choose_device", swallow)
    code, out, error = command(f"model.name={random_gemma}", *SMALL)
    assert code == 143
    assert "interrupted; to continue: " in out
    assert error == ""
    assert list(Path.cwd().iterdir()) == []
    monkeypatch.setattr(build, "choose_device", real)
    assert command(f"model.name={random_gemma}", *SMALL)[0] == 0  # nothing of it is left


@pytest.fixture
def closed_terminal(monkeypatch):
    """At step 8 of a run the terminal is closed."""

    def log(self, step, metrics):
        real(self, step, metrics)
        if step == 8:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)  # the shell says so, too

    real = JsonlLogger.log
    monkeypatch.setattr(JsonlLogger, "log", log)


@pytest.mark.usefixtures("closed_terminal")
def test_a_closed_terminal_leaves_a_checkpoint(command, random_gemma):
    code, out, error = command(f"model.name={random_gemma}", *SMALL)
    assert (code, error) == (129, "")
    assert "stopped at step 8; to continue: " in out
    assert json.loads(Path("mine/run.json").read_text())["status"] == "stopped"
    assert [p.name[:14] for p in Path("mine/checkpoints").iterdir()] == ["step_000000008"]


@pytest.mark.usefixtures("closed_terminal")
def test_under_nohup_a_run_goes_on(command, random_gemma):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert command(f"model.name={random_gemma}", *SMALL)[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert json.loads(Path("mine/run.json").read_text())["status"] == "finished"
