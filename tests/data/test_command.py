"""Text files from the command line: what is refused, what is said, what a run records."""

import os
from pathlib import Path

import pytest

WORDS = "".join(f"def function_{n}(x):\n    return x + {n}\n" for n in range(600))


@pytest.fixture
def train(command, random_gemma):
    """Trains for four steps on the text in `path`; returns (exit code, stdout, stderr)."""

    def run(path, *overrides):
        return command(
            f"model.name={random_gemma}",
            "model.hook_name=blocks.1.hook_resid_post",
            "activations.context_size=32",
            "activations.buffer_tokens=256",
            "sae.d_sae=32",
            "sae.k=4",
            "trainer.num_tokens=256",
            "trainer.batch_size=64",
            "trainer.warmup_steps=1",
            "tracker.window_size=100",
            "eval.n_reconstruction_windows=4",
            "eval.n_sparsity_windows=4",
            "data=text_files",
            f"data.path='{path}'",
            *overrides,
        )

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


def test_no_text_to_hold_out_is_answered_with_what_helps(train, text_folder):
    outcome = train(text_folder, "data.held_out_fraction=0")
    assert outcome[0] == 2
    assert "data.held_out_fraction a larger value, or use eval=none" in outcome[2]
