"""A worker in a process of its own: result, failure, signals, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from temporal_sae.errors import RunError
from temporal_sae.eval.saebench import process
from temporal_sae.eval.saebench.options import Job
from temporal_sae.eval.saebench.process import (
    newest_progress,
    reason,
    run_worker,
    working_directory,
)
from tests.eval.saebench.test_options import SCR

RESULT = "import json, os; json.dump({'cwd': os.getcwd(), **RECORD}, open('result.json', 'w'))"
# Says where it is and sleeps, with a process of its own.
SLEEP = (
    "import os, subprocess, sys, threading, time\n"
    "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "open(PIDS, 'w').write(f'{os.getpid()} {other.pid}\\n')\n"
    "time.sleep(60)\n"
)


@pytest.fixture
def work_with(monkeypatch, tmp_path):
    """Run a script in the place of the worker; returns its record and the log."""

    def run(script, data_folder=None, seconds=None):
        monkeypatch.setattr(process, "WORKER", ("-P", "-c", script))
        folder, log = tmp_path / "eval", tmp_path / "scr.log"
        with working_directory(folder, "scr") as work:
            return run_worker(SCR, work, log, data_folder, seconds), log

    return run


def failure(work_with, script, **options):
    with pytest.raises(RunError) as caught:
        work_with(script, **options)
    return str(caught.value)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_record_comes_back_and_the_folder_goes(work_with, tmp_path):
    script = RESULT.replace("RECORD", "{'argv': __import__('sys').argv[1]}") + "; print('hello')"
    record, log = work_with(script)
    assert record["argv"] == "job.json"
    assert Path(record["cwd"]) == tmp_path / "eval" / "scr.running"
    assert not Path(record["cwd"]).exists()
    assert log.read_text() == "hello\n"


def test_the_environment(work_with, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    script = RESULT.replace("RECORD", "dict(os.environ)")
    online, _ = work_with(script)
    assert online["PYTHONPATH"].split(":") == [
        str(Path(__file__).parents[3]),
        str(Path("somewhere").resolve()),
    ]
    assert online["JAXTYPING_DISABLE"] == "1" and online["TOKENIZERS_PARALLELISM"] == "false"
    assert "HF_HUB_OFFLINE" not in online
    (tmp_path / "hub" / "LabHC").mkdir(parents=True)
    offline, _ = work_with(script, data_folder=tmp_path / "hub")
    assert offline["HF_HUB_OFFLINE"] == "1"
    assert offline["HF_DATASETS_CACHE"].startswith(offline["cwd"])


def test_local_organizations_are_found_from_the_working_directory(work_with, tmp_path):
    for name in ("LabHC/bias_in_bios", ".cache/x"):
        (tmp_path / "hub" / name).mkdir(parents=True)
    (tmp_path / "hub" / "README").touch()
    script = RESULT.replace("RECORD", "{'found': sorted(os.listdir()), 'in': os.listdir('LabHC')}")
    record, _ = work_with(script, data_folder=tmp_path / "hub")
    assert record["found"] == ["LabHC", "job.json"]
    assert record["in"] == ["bias_in_bios"]
    assert (tmp_path / "hub" / "LabHC" / "bias_in_bios").is_dir()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("import sys; print('x'); sys.exit('error: no such thing')", "no such thing"),
        ("raise ValueError('first\\nsecond')", "ValueError: first"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL, as when"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("print('gave up')", "gave up"),
        ("import sys; sys.exit(5)", "exit code 5"),
        ("open('result.json', 'w').write('{')", "exit code 0"),
    ],
)
def test_why_it_failed(work_with, tmp_path, script, expected):
    text = failure(work_with, script)
    assert expected in text and "\n" not in text
    assert text.endswith(f"(log: {tmp_path / 'scr.log'})")
    assert not (tmp_path / "eval" / "scr.running").exists()


def test_progress_bars_are_no_reason(tmp_path):
    log = tmp_path / "log"
    log.write_text("  0%|    | 0/9\rTypeError: no\n 50%|##  | 4/9 [00:01<00:01]\r99%|### | 8/9\n")
    assert reason(1, log).startswith("TypeError: no")
    assert newest_progress(log).startswith("99%")
    log.write_text("All:  0%| | 0/1\nPart:  0%| | 0/9\x1b[A\x1b[APart: 44%|## | 4/9")
    assert newest_progress(log) == "Part: 44%|## | 4/9"
    log.write_text("words\n")
    assert newest_progress(log) == ""
    assert newest_progress(tmp_path / "missing") == ""


def test_too_long(work_with, tmp_path):
    pids = tmp_path / "pids"
    script = SLEEP.replace("PIDS", repr(str(pids)))
    text = failure(work_with, script, seconds=1.5)
    assert text.startswith("stopped after timeout_minutes=0.025")
    first, second = map(int, pids.read_text().split())
    wait_until(lambda: not alive(first) and not alive(second))


PARENT = """
import sys
from pathlib import Path
from temporal_sae.eval.saebench import process
from tests.eval.saebench.test_options import SCR
folder = Path(sys.argv[1])
process.WORKER = ("-P", "-c", sys.argv[2])
with process.working_directory(folder, "scr") as work:
    process.run_worker(SCR, work, folder / "log", None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_worker_ends_with_its_parent(tmp_path, number):
    pids = tmp_path / "pids"
    watch = (
        "import threading; from temporal_sae.eval.saebench.worker import end_with_the_parent\n"
        "threading.Thread(target=end_with_the_parent, daemon=True).start()\n"
    )
    script = watch + SLEEP.replace("PIDS", repr(str(pids)))
    command = [sys.executable, "-c", PARENT, str(tmp_path), script]
    parent = subprocess.Popen(
        command, cwd=Path(__file__).parents[3], stderr=subprocess.PIPE, start_new_session=True
    )
    wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"), seconds=60)
    first, second = map(int, pids.read_text().split())
    assert alive(first) and alive(second)
    parent.send_signal(number)
    parent.communicate(timeout=30)
    wait_until(lambda: not alive(first) and not alive(second))
    if number == signal.SIGINT:
        assert not (tmp_path / "scr.running").exists()


def test_what_an_earlier_process_has_left_goes(tmp_path):
    (tmp_path / "scr.running" / "artifacts").mkdir(parents=True)
    with working_directory(tmp_path, "scr") as work:
        assert os.listdir(work) == []
    assert not work.exists()


def test_the_job_is_what_the_worker_reads(work_with):
    record, _ = work_with(RESULT.replace("RECORD", "json.load(open('job.json'))"))
    del record["cwd"]
    assert Job(**record) == SCR
