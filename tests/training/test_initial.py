"""What the first activations decide: initial weights, and whether there is anything to learn."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from temporal_sae.errors import RunError
from temporal_sae.eval.__main__ import main
from temporal_sae.sae import TopKSAE
from temporal_sae.training.initial import check_sample

SMALL = [
    *("model.hook_name=blocks.1.hook_resid_post", "activations.context_size=32"),
    *("activations.buffer_tokens=256", "sae.d_sae=32", "sae.k=4", "trainer.num_tokens=512"),
    *("trainer.batch_size=64", "trainer.warmup_steps=1"),
]


@pytest.fixture
def constant_model(random_gemma, tmp_path):
    """A model to which every token is the same."""
    folder = shutil.copytree(random_gemma, tmp_path / "constant")
    weights = load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    embedding.copy_(embedding[0].clone())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_activations_that_are_all_equal_end_a_run_before_its_first_step(
    constant_model, text_folder, command, tmp_path
):
    code, _, err = command(
        *("model=hf", f"model.name={constant_model}", *SMALL),
        *("data=text_files", f"data.path={text_folder}"),
        *("eval=none", f"hydra.run.dir={tmp_path / 'run'}"),
    )
    assert code == 2
    assert err == (
        "error: the first activations are all equal, so there is nothing to explain; look at "
        "where they come from (of a language model at model.hook_name and its text)\n"
    )
    assert not list((tmp_path / "run").rglob("metrics.jsonl"))


def test_an_evaluation_on_activations_that_are_all_equal_says_so(
    constant_model, text_folder, tmp_path, capsys
):
    TopKSAE(16, 32, k=4).save(tmp_path / "sae")
    main(
        [
            *(str(tmp_path / "sae"), "model=hf", f"model.name={constant_model}", *SMALL[:2]),
            *("data=text_files", f"data.path={text_folder}", "eval.n_reconstruction_sequences=4"),
            *("eval.n_sparsity_sequences=4", "data.held_out_fraction=0.5"),
        ]
    )
    results = (tmp_path / "sae" / "results.json").read_text()
    assert '"explained_variance": null' in results
    assert '"explained_variance_legacy": null' in results
    assert "explained variance is undefined" in capsys.readouterr().out


@pytest.mark.parametrize("value", [0.0, 1.0, -1e4, 1e-9])
def test_equal_up_to_rounding_is_equal(value):
    sample = value * (1 + 1e-7 * torch.randn(100, 16))
    with pytest.raises(RunError, match="the first activations are all equal"):
        check_sample(sample)


def test_a_little_that_varies_is_enough():
    check_sample(1e-8 * torch.randn(100, 16))
    check_sample(1 + 1e-4 * torch.randn(100, 16))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value):
    sample = torch.randn(100, 16)
    sample[3, 5] = value
    with pytest.raises(RunError, match="are not finite"):
        check_sample(sample)
