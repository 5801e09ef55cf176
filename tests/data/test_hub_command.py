"""Data sets from the command line: refusals in one line, and what was trained is kept."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def train(command, random_gemma):
    """Trains for 16 steps on the rows of a file; returns (exit code, stdout, stderr)."""

    def run(file, *overrides):
        return command(
            f"model.name={random_gemma}",
            "model.hook_name=blocks.1.hook_resid_post",
            "activations.context_size=32",
            "activations.buffer_tokens=256",
            "activations.lm_batch_size=4",
            "sae.d_sae=32",
            "sae.k=4",
            "trainer.num_tokens=1024",
            "trainer.batch_size=64",
            "trainer.warmup_steps=1",
            "tracker=off",
            "loss.ortho_weight=0",
            "eval=none",
            "data=hub",
            f"data.name='{file}'",
            "data.held_out_fraction=0",
            "hydra.run.dir=run",
            *overrides,
        )

    return run


def write_rows(folder, **broken):
    rows = [json.dumps({"text": f"x = {n}\nfor y in range({n}): print(y)"}) for n in range(1, 121)]
    for number, line in broken.items():
        rows[int(number[1:]) - 1] = line
    (folder / "rows.jsonl").write_text("\n".join(rows))
    return folder / "rows.jsonl"


def weights():
    return (Path("run") / "sae" / "sae_weights.safetensors").read_bytes()


def test_a_broken_row_ends_a_run_with_a_checkpoint_and_may_then_be_passed_over(train, tmp_path):
    file = write_rows(tmp_path, r40='{"text": "cut')
    code, _, err = train(file, "data.skip_broken=1")
    assert code == 0, err
    undisturbed = weights()
    code, _, err = train(file, "overwrite=true")
    assert code == 2
    told = err.splitlines()[-1]
    assert told.startswith(f"error: data.name={file}: row 40 of train is no JSON")
    step = int(told.split("a checkpoint of step ")[1].split()[0])
    assert 1 <= step < 16
    (newest, *_) = sorted(Path("run/checkpoints").iterdir(), reverse=True)
    assert newest.name.startswith(f"step_{step:09d}.")
    code, out, err = train(file, "data.skip_broken=1")
    assert code == 0, err
    assert f"continuing at step {step} of 16" in out + err
    assert weights() == undisturbed


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"body": "words"}', "error: data.text_column='text': must be one of body\n"),
        ('{"text": [{"role": "user"}]}', "row 1 of train holds no text in the column text but a"),
    ],
)
def test_rows_without_text_are_refused_before_the_model_is_loaded(train, tmp_path, line, message):
    code, _, err = train(write_rows(tmp_path, r1=line), "model.name=/nowhere")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not Path("run").exists()


def test_an_empty_held_out_split_is_answered_with_what_helps(train, tmp_path):
    code, _, err = train(write_rows(tmp_path), "eval=core")
    assert code == 2
    assert err.count("\n") == 1
    assert "data.held_out_fraction" in err
    assert "data.path" not in err
