"""Text files from the command line: what is refused, what is said, what a run records."""

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from temporal_sae.eval.__main__ import main as evaluate

WORDS = "".join(f"def function_{n}(x):\n    return x + {n}\n" for n in range(600))


SMALL = (
    "model.hook_name=blocks.1.hook_resid_post",
    "activations.context_size=32",
    "activations.buffer_tokens=256",
    "sae.d_sae=32",
    "sae.k=4",
    "trainer.num_tokens=256",
    "trainer.batch_size=64",
    "trainer.warmup_steps=1",
    "tracker.window_size=100",
    "eval.n_reconstruction_sequences=4",
    "eval.n_sparsity_sequences=4",
    "data=text_files",
)


@pytest.fixture
def train(command, random_gemma):
    """Trains for four steps on the text in `path`; returns (exit code, stdout, stderr)."""

    def run(path, *overrides):
        return command(f"model.name={random_gemma}", *SMALL, f"data.path='{path}'", *overrides)

    return run


def assert_refused(outcome, *messages):
    code, _, err = outcome
    assert code == 2
    assert err.startswith("error: data.path=")
    assert err.count("\n") == 1
    for message in messages:
        assert message in err
    assert list(Path.cwd().iterdir()) == []


def test_a_fifo_is_left_out_and_as_the_only_file_refused(train, text_folder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert_refused(train(tmp_path / "pipe"), "1 not a regular file (pipe)")
    os.mkfifo(text_folder / "pipe.txt")
    code, out, err = train(text_folder)
    assert code == 0, err
    assert "text: 12 file(s), 0.0 MiB; left out: 1 not a regular file (pipe.txt)" in out


def test_rows_are_refused_with_what_reads_them(train, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.jsonl").write_text('{"text": "words"}\n' * 500)
    for path in ("rows", "rows/a.jsonl", "rows/*.jsonl"):
        assert_refused(train(tmp_path / path), ".jsonl is read by data=hub data.name=FILE")


def test_latin_1_alone_is_refused_by_name(train, tmp_path):
    (tmp_path / "letters").mkdir()
    for n in range(20):
        (tmp_path / "letters" / f"{n:02}.txt").write_bytes("Grüße\n".encode("latin-1") * 200)
    assert_refused(train(tmp_path / "letters"), "left out: 20 not UTF-8 (such as 00.txt)")


def test_a_single_file_is_trained_and_evaluated_on(train, tmp_path):
    (tmp_path / "book.txt").write_text(WORDS)
    code, out, err = train(tmp_path / "book.txt")
    assert code == 0, err
    assert "text: 1 file(s), 0.0 MiB; cut into" in out


def test_names_of_special_tokens_are_text_to_train_and_to_evaluate_on(train, tmp_path):
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "texts" / name).write_text("<bos><eos>" * 500)
    code, _, err = train(tmp_path / "texts")
    assert code == 0, err


def test_no_text_to_hold_out_is_answered_with_what_helps(train, text_folder):
    outcome = train(text_folder, "data.held_out_fraction=0", "eval=core")
    assert outcome[0] == 2
    assert "data.held_out_fraction a larger value, or use eval=none" in outcome[2]


def record_of(run):
    return json.loads((run / "run.json").read_text())


def interrupt(run):
    """Leave the folder as a run does that was killed before its last step."""
    sorted((run / "checkpoints").iterdir())[-1].unlink()
    for name in ("results.json", "notes.md"):
        (run / name).unlink()
    (run / "run.json").write_text(json.dumps({**record_of(run), "status": "running"}))


def weights(run):
    return (run / "sae" / "sae_weights.safetensors").read_bytes()


RUN = Path("outputs/mine")
HERE = (f"hydra.run.dir={RUN}", "trainer.checkpoint_every=1")


@pytest.fixture
def six_files(command):
    """In the working directory, below which runs write too."""
    for n in range(6):
        Path(f"{n}.txt").write_text(WORDS)


@pytest.mark.usefixtures("six_files")
def test_a_run_below_its_own_text_goes_on_with_the_same_text(train):
    assert train(".", *HERE)[0] == 0
    record, trained = record_of(RUN), weights(RUN)
    assert record["data"]["files"] == 6
    (RUN / "log.txt").write_text("left by a launcher")
    interrupt(RUN)
    code, out, err = train(".", *HERE)
    assert code == 0, err
    assert "continuing at step 3 of 4" in out
    assert record_of(RUN)["data"]["hash"] == record["data"]["hash"]
    assert "1 written by runs (outputs/mine)" in out
    assert weights(RUN) == trained


@pytest.mark.usefixtures("six_files")
def test_a_run_is_not_continued_on_other_text_unless_that_is_accepted(train):
    assert train(".", *HERE)[0] == 0
    interrupt(RUN)
    before = record_of(RUN)
    Path("new.txt").write_text(WORDS)
    Path("0.txt").write_text(WORDS.replace("7", "8"))  # of the same size
    Path("1.txt").unlink()
    changes = "1 file(s) added (new.txt), 1 file(s) removed (1.txt), 1 file(s) changed (0.txt)"
    code, _, err = train(".", *HERE)
    assert code == 2
    assert err.startswith(f"error: {RUN}: holds a run of other data ({changes});")
    assert "data.changed=accept" in err
    assert err.count("\n") == 1
    assert record_of(RUN) == before
    code, out, err = train(".", *HERE, "data.changed=accept")
    assert code == 0, err
    assert "continuing at step 3 of 4" in out
    assert record_of(RUN)["data"]["accepted_changes"] == [changes]


@pytest.mark.usefixtures("six_files")
def test_a_run_is_not_continued_on_a_model_with_other_weights(train, random_gemma, tmp_path):
    model = shutil.copytree(random_gemma, tmp_path / "model")
    typed = (".", *HERE, f"model.name={model}")
    assert train(*typed)[0] == 0
    interrupt(RUN)
    record = record_of(RUN)
    path = model / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "model.norm.weight": weights["model.norm.weight"] + 1}, path)
    code, _, err = train(*typed)
    assert code == 2
    assert f"holds a run of other data (weights: {record['data']['weights']} → " in err
    assert err.count("\n") == 1
    del record["data"]["weights"]  # as an earlier version left it, which cannot tell
    (RUN / "run.json").write_text(json.dumps(record))
    assert train(*typed)[0] == 0


@pytest.mark.usefixtures("six_files")
def test_with_overwrite_a_run_of_other_text_begins_anew(train):
    assert train(".", *HERE)[0] == 0
    interrupt(RUN)
    Path("new.txt").write_text(WORDS)
    code, out, err = train(".", *HERE, "overwrite=true")
    assert code == 0, err
    assert "continuing" not in out
    assert record_of(RUN)["data"]["files"] == 7
    assert record_of(RUN)["data"]["accepted_changes"] == []


@pytest.mark.usefixtures("six_files")
def test_what_is_left_out_stands_in_the_record_too(train):
    for n in range(6):  # so short that all are read
        Path(f"{n}.txt").write_text(WORDS[:200])
    Path("a.txt").write_bytes("é".encode("latin-1"))
    Path("late.txt").write_bytes(b"a" * 70_000 + b"\xff")
    Path("rows.csv").write_text("a,b")
    code, out, err = train(".", *HERE)
    assert code == 0, err
    assert "left out: 1 .csv read by data=hub (rows.csv), 1 not UTF-8 (a.txt)" in out
    assert "left out of the data while they were read: 2 not UTF-8 (such as a.txt)" in out
    assert record_of(RUN)["data"]["left_out"] == {
        ".csv read by data=hub": {"count": 1, "example": "rows.csv"},
        "not UTF-8": {"count": 2, "example": "a.txt"},
        "written by runs": {"count": 1, "example": str(RUN)},
    }


@pytest.mark.usefixtures("six_files")
def test_an_evaluation_on_other_text_says_so(train, capsys):
    assert train(".", *HERE)[0] == 0
    core = ("eval.n_reconstruction_sequences=4", "eval.n_sparsity_sequences=4")
    evaluate([str(RUN), *core])
    assert "not the text" not in capsys.readouterr().out
    Path("new.txt").write_text(WORDS)
    evaluate([str(RUN), *core])
    told = "these are not the data that the SAE was trained on: 1 file(s) added (new.txt)"
    assert told in capsys.readouterr().out


def test_the_standard_library_is_compared_too(command, random_gemma):
    """Python may have been updated since."""
    overrides = [o for o in SMALL if not o.startswith("data=")]
    arguments = (f"model.name={random_gemma}", *overrides, *HERE)
    assert command(*arguments)[0] == 0
    interrupt(RUN)
    record = record_of(RUN)
    record["data"]["hash"] = "another"
    (RUN / "run.json").write_text(json.dumps(record))
    listing = json.loads((RUN / "text.json").read_text())
    (RUN / "text.json").write_text(json.dumps({**listing, "this.py": [1, 2]}))
    code, _, err = command(*arguments)
    assert code == 2
    assert "holds a run of other data (1 file(s) changed (this.py))" in err
