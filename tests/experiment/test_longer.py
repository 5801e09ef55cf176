"""A run that goes on from an SAE, or beyond its own end."""

import json

import pytest
import torch

from temporal_sae.sae import load_sae

TOY = (
    "experiment=toy",
    "activations.buffer_tokens=2048",
    "trainer.batch_size=256",
    "trainer.warmup_steps=2",
    "trainer.log_every=1",
    "eval=none",
    "objective=final_loss",
)


def steps_in(folder):
    return [
        json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def test_a_finished_run_is_extended_by_a_larger_number_of_tokens(command, tmp_path):
    short, longer = "trainer.num_tokens=2560", "trainer.num_tokens=5120"
    assert command(*TOY, short, "hydra.run.dir=a")[0] == 0
    first = load_sae(tmp_path / "work" / "a" / "sae").W_dec.clone()
    code, _, err = command(*TOY, short, "hydra.run.dir=a")
    assert code == 2
    assert "or a larger trainer.num_tokens to train it further" in err
    code, _, err = command(*TOY, "trainer.num_tokens=1280", "hydra.run.dir=a")
    assert code == 2
    assert command(*TOY, longer, "hydra.run.dir=a")[0] == 0
    assert steps_in(tmp_path / "work" / "a") == list(range(1, 21))
    record = json.loads((tmp_path / "work" / "a" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["extended_from_tokens"] == [2560]
    assert record["config"]["trainer"]["num_tokens"] == 5120
    assert not torch.equal(load_sae(tmp_path / "work" / "a" / "sae").W_dec, first)


def test_other_options_may_not_change_on_the_way(command):
    assert command(*TOY, "trainer.num_tokens=2560", "hydra.run.dir=a")[0] == 0
    code, _, err = command(*TOY, "trainer.num_tokens=5120", "sae.k=4", "hydra.run.dir=a")
    assert code == 2
    assert "sae.k: 5 → 4" in err


def test_finetune_starts_from_a_saved_sae(command, tmp_path):
    assert command(*TOY, "trainer.num_tokens=25600", "hydra.run.dir=a")[0] == 0
    before = load_sae(tmp_path / "work" / "a" / "sae").W_dec
    options = ("trainer.num_tokens=512", "trainer.lr=1e-8", "hydra.run.dir=b")
    assert command(*TOY, "finetune=a/sae", *options)[0] == 0
    assert torch.allclose(load_sae(tmp_path / "work" / "b" / "sae").W_dec, before, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune=nowhere"], "nowhere: there is no such file or folder"),
        (["finetune=3"], "finetune=3: must be"),
        (
            ["finetune=a/sae", "sae.d_sae=64"],
            "finetune='an SAE with d_in 64 and d_sae 128': must be one with",
        ),
    ],
)
def test_bad_starts_are_one_line(command, words, message):
    assert command(*TOY, "trainer.num_tokens=512", "hydra.run.dir=a")[0] == 0
    code, _, err = command(*TOY, "trainer.num_tokens=512", "hydra.run.dir=b", *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
