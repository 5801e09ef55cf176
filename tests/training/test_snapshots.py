"""`trainer.keep_every`: SAEs over time."""

import json
from pathlib import Path

import pytest
import torch

from temporal_sae.errors import InvalidOption
from temporal_sae.sae import load_sae
from temporal_sae.training import Snapshots, Stopped
from temporal_sae.training.snapshots import is_kept
from tests.test_cli import small
from tests.training.test_trainer import Synthetic, make_parts, make_trainer


def kept(folder):
    return sorted(int(path.name.removeprefix("step_")) for path in Path(folder).glob("step_*"))


def parts_with_snapshots(folder, **options):
    folder.mkdir(exist_ok=True)
    parts = make_parts(folder, **options)
    parts.snapshots = Snapshots(folder / "snapshots", lambda sae, step, to: sae.save(to))
    return parts


@pytest.mark.parametrize(
    ("keep_every", "steps"), [("log", [1, 2, 4, 8, 16]), (5, [5, 10, 15, 20]), (None, [])]
)
def test_which_steps(keep_every, steps):
    assert [step for step in range(1, 21) if is_kept(step, keep_every)] == steps


def test_a_run_leaves_saes_over_time(command, random_gemma):
    options = ["hydra.run.dir=run", "eval=none", "activations.normalize=true"]
    run = [*small(random_gemma, without=["eval=none"]), *options]
    code, _, err = command(*run, "trainer.keep_every=log")
    assert code == 0, err
    assert kept("run/snapshots") == [1, 2, 4, 8, 16]
    saes = [load_sae(f"run/snapshots/step_{step:09d}") for step in (1, 16)]
    last = load_sae("run/sae")
    for name, tensor in last.weights().items():  # the scale of the activations is in them, too
        assert torch.equal(tensor, saes[1].weights()[name])
        assert not torch.equal(tensor, saes[0].weights()[name])
    config = json.loads(Path("run/snapshots/step_000000001/cfg.json").read_text())
    assert config["metadata"]["training_tokens"] == 128
    assert command(*run, "overwrite=true")[0] == 0
    assert not Path("run/snapshots").exists()


def test_they_are_rewound_with_a_stopped_run(tmp_path):
    whole = parts_with_snapshots(tmp_path / "whole")
    make_trainer(keep_every=4).fit(whole)
    folder = tmp_path / "stopped"
    with pytest.raises(Stopped):
        make_trainer(keep_every=4).fit(parts_with_snapshots(folder, batches=Synthetic(10)))
    for file in (folder / "checkpoints").glob("step_000000010*"):
        file.unlink()  # as after a kill: the last checkpoint is of step 7
    assert kept(folder / "snapshots") == [4, 8]
    (folder / "snapshots" / "step_000000008" / "cfg.json").write_text("{}")
    make_trainer(keep_every=4).fit(parts_with_snapshots(folder))
    assert (
        kept(folder / "snapshots") == kept(tmp_path / "whole" / "snapshots") == [*range(4, 31, 4)]
    )
    for path in (folder / "snapshots").rglob("*.*"):
        twin = tmp_path / "whole" / path.relative_to(folder)
        assert path.read_bytes() == twin.read_bytes()


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    def save(sae, step, folder):
        (folder / "part").write_text("unfinished")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        Snapshots(tmp_path, save).keep(3, make_parts(tmp_path / "other").sae)
    assert kept(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] in ([], ["other"])


@pytest.mark.parametrize("value", [0, -1, 2.5, "logs", True, float("nan")])
def test_other_values_are_refused(value):
    with pytest.raises(InvalidOption, match="null, log, or a whole number"):
        make_trainer(keep_every=value)


def test_it_needs_somewhere_to_keep_them(tmp_path):
    with pytest.raises(InvalidOption, match="keep_every"):
        make_trainer(keep_every=3).fit(make_parts(tmp_path))
