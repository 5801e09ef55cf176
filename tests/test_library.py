"""`from temporal_sae import train`: from activations in hand to an SAE, in one call."""

import json
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from temporal_sae import train, train_many
from temporal_sae.activations import Harvest, SyntheticActivations
from temporal_sae.activations.given import as_source
from temporal_sae.data import TextFiles
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.sae import StandardSAE, TopKSAE, load_sae
from temporal_sae.tracker import CoActivationTracker, NoTracker
from temporal_sae.training import Checkpoints, Parts, Trainer

SIZES = {"d_sae": 64, "k": 4, "progress": False}


def features(n=6000, d_in=16, n_features=48, seed=0):
    """Sparse sums of fixed directions, and a mean that is far from zero."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(
        torch.randn(n_features, d_in, generator=generator), dim=-1
    )
    values = torch.rand(n, n_features, generator=generator)
    return ((values > 0.93) * values) @ directions + 3.0


X = features()


@pytest.mark.parametrize("kind", ["tensor", "bfloat16", "array", "images", "memmap", "path"])
def test_arrays_of_every_kind_give_the_same_sae(tmp_path, kind):
    np.save(tmp_path / "x.npy", X.numpy())
    x = {
        "tensor": lambda: X,
        "bfloat16": lambda: X.bfloat16(),
        "array": lambda: X.numpy(),
        "images": lambda: X.view(-1, 4, 16).numpy(),
        "memmap": lambda: np.load(tmp_path / "x.npy", mmap_mode="r"),
        "path": lambda: tmp_path / "x.npy",
    }[kind]()
    run = train(x, num_tokens=4000, **SIZES)
    expected = train(X, num_tokens=4000, **SIZES)
    assert 0.5 < run.metrics["explained_variance"] <= 1
    assert run.metrics["l0"] == 4
    if kind in ("tensor", "array", "images", "memmap"):
        assert torch.equal(run.sae.W_dec, expected.sae.W_dec)


def test_the_sae_takes_activations_as_they_are():
    run = train(X, **SIZES)
    with torch.no_grad():
        explained = 1 - (X - run.sae(X)).square().sum() / (X - X.mean(0)).square().sum()
    assert float(explained) == pytest.approx(run.metrics["explained_variance"], abs=0.05)
    assert run.scale == pytest.approx(float(X.square().sum(-1).mean().sqrt()), rel=0.05)


def test_few_rows_are_divided_too():
    run = train(X[:300], num_tokens=2000, **SIZES)
    assert run.metrics["l0"] == 4
    assert run.source.rows_in_pass == 270


def test_a_held_out_row_that_is_not_finite_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("has been trained"))
    held_out = {int(row) for row in held_out_rows(X)}
    x = X.clone()
    x[min(held_out), 3] = float("inf")
    with pytest.raises(RunError, match=rf"^array: row {min(held_out)} holds a number that is not"):
        train(x, num_tokens=640, **SIZES)


def held_out_rows(x):
    """Return the numbers of the rows that are held out of an array."""
    numbered = torch.arange(len(x), dtype=torch.float32)[:, None].expand_as(x)
    source = as_source(numbered)
    return torch.cat([rows.x[:, 0] for rows in source.held_out(len(x), 1)])


def test_history_tracker_and_metrics():
    run = train(X, num_tokens=5000, log_every=5, tracker={"window_size": 300}, **SIZES)
    assert [step["step"] for step in run.history][:3] == [5, 10, 15]
    assert {"loss", "explained_variance", "l0", "dead_share"} <= run.history[0].keys()
    assert run.tracker.windows_closed == run.history[-1]["tokens"] // 300
    assert "explained_variance=" in repr(run)


def test_without_the_method_and_with_instances():
    plain = train(X, num_tokens=2000, tracker=None, loss=None, **SIZES)
    assert isinstance(plain.tracker, NoTracker)
    torch.manual_seed(0)
    sae = TopKSAE(16, 64, k=4)
    tracker = CoActivationTracker(64, window_size=200)
    run = train(
        X, sae, num_tokens=2000, tracker=tracker, loss=OrthogonalityLoss(1.0), progress=False
    )
    assert run.sae is sae
    assert run.tracker is tracker
    assert tracker.windows_closed == 1984 // 200  # whole batches of 64


@pytest.mark.parametrize(
    ("sae", "options"),
    [
        ("batch_topk", {"k": 4}),
        ("standard", {}),
        ("jumprelu", {}),
        ("gated", {}),
        ("matryoshka", {"k": 4}),
        ("lista", {"k": 4, "n_corrections": 2}),
    ],
)
def test_every_architecture(sae, options):
    run = train(X, sae, d_sae=64, num_tokens=2000, progress=False, **options)
    assert run.sae.trained_as == sae
    assert np.isfinite(run.metrics["explained_variance"])


def test_a_source_with_known_features_and_one_with_a_language_model(small_model, tmp_path):
    run = train(SyntheticActivations(), num_tokens=3000, d_sae=128, k=8, progress=False)
    assert 0 < run.metrics["mcc"] < 1
    (tmp_path / "a.txt").write_text("def f(x):\n    return x + 1\n" * 3000)
    text = TextFiles(str(tmp_path))
    harvest = Harvest(16, lm_batch_size=8, buffer_tokens=2048, model=small_model, text=text)
    run = train(harvest, num_tokens=3000, n_sequences=16, **SIZES)
    assert "ce_loss_score" in run.metrics
    with pytest.raises(InvalidOption, match="num_tokens=None: must be given for"):
        train(SyntheticActivations())


def test_ten_thousand_tokens_are_enough_for_auxk_to_act():
    """Warm-up and the time after which a latent is dead follow the length of the run."""
    options = {"d_sae": 512, "k": 2, "tracker": None, "loss": None, "log_every": 1}
    run = train(features(12_000), num_tokens=10_000, progress=False, **options)
    assert max(step["dead_share"] for step in run.history) > 0
    assert any(step.get("loss_auxk", 0) > 0 for step in run.history)
    explained = [step["explained_variance"] for step in run.history]
    assert sum(explained[-20:]) > sum(explained[:20])


def test_an_iterable_is_read_once_and_its_end_is_said():
    batches = [X[n : n + 500] for n in range(0, 6000, 500)]
    run = train(batches, num_tokens=4000, **SIZES)
    assert run.metrics["explained_variance"] > 0.5
    run = train(iter(batches), num_tokens=5000, **SIZES)  # the buffer is emptied at the end
    with pytest.raises(RunError, match=r"the activations have ended after 5,200 rows; train on"):
        train(iter(batches), num_tokens=8000, **SIZES)
    with pytest.raises(InvalidOption, match="num_tokens"):
        train(iter(batches), **SIZES)


def test_a_list_of_batches_is_read_again_and_continued_to_the_bit(tmp_path):
    batches = [[X[n : n + 500]] for n in range(0, 6000, 500)]  # as a DataLoader gives them
    options = {"batch_size": 64, "checkpoint_every": 10, **SIZES}
    assert train(batches, **SIZES).history[-1]["step"] == (6000 - 4096) // 64
    whole = train(batches, num_tokens=16_000, **options)
    with killed_after(200):
        train(batches, num_tokens=16_000, folder=tmp_path, **options)
    again = train(batches, num_tokens=16_000, folder=tmp_path, **options)
    assert torch.equal(again.sae.W_dec, whole.sae.W_dec)


def test_rows_that_are_held_out_are_not_trained_on():
    """Every fourth row is far away; the SAE has seen some, and is judged on others."""
    seen = []

    class Watched(TopKSAE):
        def training_step(self, x, context):
            seen.append(x.detach().clone())
            return super().training_step(x, context)

    run = train(X, Watched(16, 64, k=4), num_tokens=20_000, progress=False)
    trained = (torch.cat(seen) * run.scale)[:, None, :3]
    held_out = torch.cat([rows.x for rows in run.source.held_out(1000, 8)])
    assert len(held_out) > 500
    distances = torch.cdist(held_out[:200, :3], trained[:, 0]).amin(1)
    assert float((distances > 1e-3).float().mean()) > 0.9


def files_in(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_nothing_is_written_unless_a_folder_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(X, num_tokens=2000, **SIZES)
    assert os.listdir(tmp_path) == []
    train(X, num_tokens=2000, folder="out", **SIZES)
    names = [name.split("/")[0] for name in files_in("out")]
    assert set(names) == {"checkpoints", "metrics.jsonl", "results.json", "sae", "train.json"}


@contextmanager
def killed_after(step):
    """Interrupt the run once it has saved the checkpoint of a step."""
    save = Checkpoints.save

    def interrupted(self, number, state):
        save(self, number, state)
        if number >= step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "save", interrupted)
        yield


def test_a_folder_is_continued_to_the_bit(tmp_path):
    whole = train(X, num_tokens=6000, folder=tmp_path / "whole", **SIZES)
    options = {"checkpoint_every": 20, "folder": tmp_path / "cut", **SIZES}
    with killed_after(40):
        train(X, num_tokens=6000, **options)
    again = train(X, num_tokens=6000, **options)
    assert torch.equal(again.sae.W_dec, whole.sae.W_dec)
    assert [s["step"] for s in again.history] == [s["step"] for s in whole.history]
    assert torch.equal(load_sae(tmp_path / "cut" / "sae").W_dec, whole.sae.W_dec)


def test_a_finished_run_is_extended(tmp_path):
    train(X, num_tokens=2000, batch_size=64, folder=tmp_path, **SIZES)
    run = train(X, num_tokens=4000, batch_size=64, folder=tmp_path, **SIZES)
    assert run.history[-1]["step"] == 4000 // 64
    assert len({s["step"] for s in run.history}) == len(run.history)


def test_an_extended_run_keeps_its_batch_size_where_none_is_given(tmp_path):
    train(X, num_tokens=64_000, folder=tmp_path, **SIZES)
    run = train(X, num_tokens=96_000, folder=tmp_path, **SIZES)
    assert run.history[-1]["step"] == 750  # of 128 rows, not 500 of 192


def test_other_options_or_a_shorter_run_in_the_same_folder_are_refused(tmp_path):
    def run(**options):
        return train(X, **{"num_tokens": 2000, "folder": tmp_path, **SIZES, **options})

    run()
    for options, told in [
        ({"k": 5}, "k: 4 → 5"),
        ({"lr": 1e-2}, "lr: None → 0.01"),
        ({"tracker": {"window_size": 9}}, "tracker: co_activation → None"),
        ({"held_out_fraction": 0.5}, "held_out_fraction: 0.1 → 0.5"),
    ]:
        with pytest.raises(RunError, match=f"holds a run with other options .*{told}"):
            run(**options)
    with pytest.raises(RunError, match=r"of step 31, and num_tokens ends at step 15; raise it"):
        run(num_tokens=1000)
    assert run(resume="never", k=5).metrics["l0"] == 5
    (tmp_path / "train.json").unlink()
    with pytest.raises(RunError, match=r"holds checkpoints but no train\.json"):
        run()


@pytest.mark.parametrize("other", ["seed", "data"])
def test_the_folder_of_another_run_is_refused(tmp_path, other):
    train(X, num_tokens=2000, folder=tmp_path, **SIZES)
    before = (tmp_path / "sae" / "sae_weights.safetensors").read_bytes()
    x, seed = (X, 1) if other == "seed" else (X + 1, 0)
    message = "with other options .seed: 0 → 1" if other == "seed" else "a run on other activations"
    with pytest.raises(RunError, match=message):
        train(x, num_tokens=2000, seed=seed, folder=tmp_path, **SIZES)
    assert (tmp_path / "sae" / "sae_weights.safetensors").read_bytes() == before


@pytest.mark.parametrize("given", ["folder", "sae"])
def test_finetuning_starts_where_the_other_ended(tmp_path, given):
    first = train(X, num_tokens=20_000, tracker=None, loss=None, **SIZES)
    first.save(tmp_path)
    start = tmp_path if given == "folder" else first.sae
    before = first.sae.W_dec.detach().clone()
    options = {"num_tokens": 640, "batch_size": 64, "lr": 1e-7, "tracker": None, "loss": None}
    run = train(X, finetune=start, **options, **SIZES)
    assert torch.allclose(run.sae.W_dec, before, atol=1e-3)
    assert run.metrics["explained_variance"] == pytest.approx(
        first.metrics["explained_variance"], abs=0.01
    )
    with pytest.raises(InvalidOption, match=r"finetune=.*d_sae 64.*must be one with.*d_sae 32"):
        train(X, finetune=start, num_tokens=640, d_sae=32, k=4, progress=False)


def test_finetuning_takes_architecture_and_sizes_from_the_other(tmp_path):
    torch.manual_seed(0)
    TopKSAE(16, 48, k=3).save(tmp_path)
    run = train(X, finetune=tmp_path, num_tokens=640, progress=False)
    assert (run.sae.trained_as, run.sae.d_sae, run.metrics["l0"]) == ("topk", 48, 3)
    assert train(X, finetune=tmp_path, k=2, num_tokens=640, progress=False).metrics["l0"] == 2
    with pytest.raises(InvalidOption, match="k=None: must be given for sae=topk"):
        train(X, num_tokens=640, progress=False)


def test_finetuning_from_another_architecture_keeps_what_latents_contribute():
    """A ReLU SAE whose decoder rows have any length, as other packages leave them."""
    torch.manual_seed(0)
    start = StandardSAE(16, 64)
    start.W_dec.data *= torch.rand(64, 1) + 0.5
    run = train(
        X,
        "standard",
        finetune=start,
        d_sae=64,
        num_tokens=64,
        batch_size=64,
        lr=1e-9,
        l1_weight=0.0,
        tracker=None,
        loss=None,
        progress=False,
    )
    assert torch.allclose(run.sae.W_dec.norm(dim=-1), torch.ones(64), atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(run.sae(X[:50]), start(X[:50]), atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sae": "top_k"}, r"sae='top_k': must be one of batch_topk, gated"),
        ({"kk": 3}, r"kk=3: must be one of k, "),
        ({"k": 0}, r"k=0: must be"),
        ({"sae": ["topk"]}, r"sae=\['topk'\]: must be one of"),
        ({"tracker": {"window": 5}}, r"tracker.window=5: must be one of window_size"),
        ({"loss": {"weight": 1}}, r"loss\.weight=1: must be one of .*ortho_weight"),
        ({"device": "cuda:9"}, r"device='cuda:9': must be one of auto, cpu"),
        ({"device": "nonsense"}, r"device='nonsense': must be one of"),
        ({"num_tokens": "abc"}, r"num_tokens='abc': must be a whole number"),
        ({"batch_size": 99_999}, r"batch_size=99999: must be at most 32,768"),
        ({"batch_size": "a"}, r"batch_size='a': must be a whole number"),
        ({"seed": None}, r"seed=None: must be a whole number"),
        ({"seed": 2**70}, r"seed=\d+: must be a whole number below"),
        ({"n_sequences": 0}, r"n_sequences=0: must be"),
        ({"finetune": 5}, r"finetune=5: must be the folder of an SAE"),
        ({"folder": 5}, r"folder=5: must be the path"),
        ({"keep_every": 5}, r"keep_every=5: must be one of"),
        ({"x": [["a", "b"]]}, r"batch 0 is a list; batches are tensors or arrays"),
        ({"tracker": 3}, r"tracker=3: must be co_activation"),
        ({"tracker": {"window_size": 0}}, r"window_size=0"),
        ({"loss": "cosine"}, r"loss='cosine': must be orthogonality"),
        ({"num_tokens": 0}, r"num_tokens"),
        ({"x": 5}, r"x='int': must be a tensor"),
        ({"x": torch.zeros(9, dtype=torch.int64)}, r"array: holds torch.int64; activations are"),
        ({"x": torch.zeros(9)}, r"array: has shape \[9\]; activations are \[rows, d_in\]"),
        ({"x": X[:0]}, r"array: has shape \[0, 16\]; activations are .* with at least one row"),
        ({"x": np.ma.masked_less(X.numpy(), 3)}, "array: is masked, and a mask would be lost"),
        ({"x": torch.full((900, 4), float("nan"))}, r"array: row \d+ holds a number that is not"),
        ({"x": torch.ones(900, 4)}, r"the first activations are all equal"),
        ({"x": "nothing.npy"}, r"path='nothing.npy': must be a file"),
    ],
)
def test_mistakes_are_one_line(options, message):
    options = {"x": X, "num_tokens": 640, **SIZES, **options}
    with pytest.raises((InvalidOption, RunError), match=message) as error:
        train(options.pop("x"), **options)
    assert "\n" not in str(error.value)


def test_the_users_random_numbers_stay_as_they_were():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(X, num_tokens=640, **SIZES)
    assert torch.equal(torch.rand(3), expected)


def test_a_trainer_needs_nothing_but_an_sae_and_activations(tmp_path):
    torch.manual_seed(0)
    sae = TopKSAE(16, 64, k=4)
    before = sae.W_dec.detach().clone()
    state = Trainer(num_tokens=2000, batch_size=100).fit(Parts(sae, X))
    assert state.step == 20
    assert state.metrics["explained_variance"] > 0
    assert not torch.equal(sae.W_dec, before)


def test_a_second_fit_in_the_folder_of_the_first_is_refused(tmp_path):
    """It would return at once, with the weights of the first."""
    trainer = Trainer(num_tokens=2000, batch_size=100)
    for seed in (0, 1):
        torch.manual_seed(seed)
        parts = Parts(TopKSAE(16, 64, k=4), X, checkpoints=Checkpoints(tmp_path / "checkpoints"))
        if seed == 0:
            trainer.fit(parts)
        else:
            with pytest.raises(RunError, match="another run, whose SAE began with other"):
                trainer.fit(parts)


def test_results_in_a_folder_are_those_that_are_returned(tmp_path):
    run = train(X, num_tokens=2000, folder=tmp_path, **SIZES)
    (section,) = json.loads((tmp_path / "results.json").read_text()).values()
    assert section["metrics"]["reconstruction_quality"]["mse"] == run.metrics["mse"]


def test_several_saes_become_what_each_becomes_alone(tmp_path):
    saes = [
        {"k": 4},
        {"sae": "standard", "d_sae": 32},
        {"k": 8, "tracker": None, "loss": None, "folder": tmp_path / "plain"},
        {"k": 2, "tracker": {"stream": "ordered", "window_size": 100}, "num_tokens": 2000},
    ]
    options = {"batch_size": 64, "num_tokens": 4000, "progress": False}
    together = train_many(X, saes, d_sae=64, **options)
    for result, own in zip(together, saes, strict=True):
        alone = train(X, **{"d_sae": 64, **options, **own, "folder": None})
        assert result.metrics == alone.metrics
        assert torch.equal(result.sae.W_dec, alone.sae.W_dec)
        assert [line["step"] for line in result.history] == [line["step"] for line in alone.history]
    assert load_sae(tmp_path / "plain" / "sae").k == 8


def test_one_of_several_that_fails_is_told_in_its_place():
    saes = [{"k": 4}, {"k": 4, "lr": 1e30, "grad_clip": None}]
    good, bad = train_many(X, saes, d_sae=64, num_tokens=4000, batch_size=64, progress=False)
    assert good.metrics["l0"] == 4
    assert isinstance(bad, RunError) and "is not finite" in str(bad)


@pytest.mark.parametrize(
    ("saes", "options", "message"),
    [
        ([], {}, "saes=.*must be a list of dictionaries"),
        ({"k": 4}, {}, "saes=.*must be a list of dictionaries"),
        ([{"k": 4}, {"k": 4, "seed": 1}], {}, "saes.1.seed=1: must be given for all"),
        (
            [{"k": 4, "folder": "a"}, {"k": 8, "folder": "a"}],
            {},
            "saes.folder='a': must be another",
        ),
        (
            [{"k": 4, "folder": f} for f in ("a", "./b/../a")],
            {},
            "saes.folder='a': must be another",
        ),
        ([{"k": 4}, {"k": 8}], {"folder": "a"}, "saes.folder='a': must be another"),
        ([{}, {}], {"sae": TopKSAE(16, 32, 4)}, "saes.sae=.*must be another one for each"),
        ([{"k": 4}, {"k": 8}], {"tracker": CoActivationTracker(32, 50)}, "saes.tracker=.*another"),
        ([{"k": 4}, {"k": 8}], {"loss": OrthogonalityLoss()}, "saes.loss=.*another"),
        ([{"kk": 4}], {}, "kk=4: must be one of k,"),
    ],
)
def test_mistakes_in_several_are_one_line(saes, options, message):
    with pytest.raises((InvalidOption, RunError), match=message):
        train_many(X, saes, num_tokens=640, progress=False, **options)
