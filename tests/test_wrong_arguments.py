"""Wrong arguments of the commands beside launch.py, and of the library: one line, exit code 2."""

import importlib
from pathlib import Path

import pytest
import torch

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.sae import (
    BatchTopKSAE,
    GatedSAE,
    JumpReLUSAE,
    ListaSAE,
    MatryoshkaSAE,
    StandardSAE,
    TopKSAE,
    load_sae,
)
from temporal_sae.tracker import CoActivationTracker
from temporal_sae.training import Trainer
from tests.wrong_values import INF, NAN

LONG = "x" * 5000
WRONG = {
    "eval": [
        [],
        ["eval=core"],
        ["--nothing"],
        ["nowhere"],
        [LONG],
        ["nowhere", "eval=magic"],
        ["."],
        [".", "=3"],
        [".", "eval=null"],
        [".", "eval.n_windws=3"],
        [".", "device=a=b"],
    ],
    "sweep": [[], ["--nothing"], ["nowhere"], ["."], ["a", "b"], [LONG], ["."], ["--watch"]],
    "report": [[], ["nothing"], ["compare"], ["compare", "a"], ["compare", "a", "--against", "b"]],
    "sae.hub": [[], ["a"], ["nowhere", "x"], ["nowhere", "me/x"], [LONG, "me/x"], ["a", "b", "c"]],
    "assets.train_tiny": [["--steps", "0"], ["--steps", "many"], ["--lr", "nan"], ["extra"]],
}


@pytest.mark.parametrize(
    ("module", "arguments"), [(name, words) for name, tried in WRONG.items() for words in tried]
)
def test_wrong_arguments_are_one_line(module, arguments, monkeypatch, tmp_path, capsys):
    main = importlib.import_module(
        f"temporal_sae.{module}{'' if '.' in module else '.__main__'}"
    ).main
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert list(Path.cwd().iterdir()) == []


ARCHITECTURES = [
    (BatchTopKSAE, {"k": 4}),
    (GatedSAE, {}),
    (JumpReLUSAE, {}),
    (ListaSAE, {"k": 4}),
    (MatryoshkaSAE, {"k": 4}),
    (StandardSAE, {}),
    (TopKSAE, {"k": 4}),
]
SIZES = (0, -1, 1.5, NAN, INF, None, "many", [8], True, 2**63)


@pytest.mark.parametrize(("architecture", "options"), ARCHITECTURES)
@pytest.mark.parametrize("option", ["d_in", "d_sae"])
def test_wrong_sizes_of_an_sae_are_named(architecture, options, option):
    for size in SIZES:
        with pytest.raises(InvalidOption, match=f"{option}="), torch.device("meta"):
            architecture(**{"d_in": 8, "d_sae": 64, **options, option: size})


@pytest.mark.parametrize("size", SIZES)
def test_wrong_sizes_of_the_others_are_named(size):
    with pytest.raises(InvalidOption, match="n_latents="):
        CoActivationTracker(size)
    with pytest.raises(InvalidOption, match="window_size="):
        CoActivationTracker(8, window_size=size)
    with pytest.raises(InvalidOption, match="num_tokens="):
        Trainer(num_tokens=size)


@pytest.mark.parametrize("weight", [-1, NAN, INF, None, "much", [1], True])
def test_a_wrong_weight_is_named(weight):
    with pytest.raises(InvalidOption, match="ortho_weight="):
        OrthogonalityLoss(ortho_weight=weight)


def test_a_folder_that_holds_no_sae_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / LONG):
        with pytest.raises(RunError) as refused:
            load_sae(folder)
        assert "\n" not in str(refused.value)
