"""Components of another package: one file each, from the command line to the report."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from temporal_sae import metrics, registry
from temporal_sae.errors import InvalidOption
from temporal_sae.eval.__main__ import evaluate
from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.report import build_report
from temporal_sae.sae import StandardSAE, load_sae
from temporal_sae.tracker import CoActivationTracker, weightings
from tests.test_cli import small

ABSOLUTE = '''
"""|z| over a threshold, which no architecture of ours is."""
from temporal_sae.registry import component
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.sae.step_ops import Chosen


@component("sae")
class AbsoluteSAE(SparseAutoencoder):
    config_keys = ("d_in", "d_sae", "floor")

    def __init__(self, d_in, d_sae, floor=0.5):
        self.floor = floor
        super().__init__(d_in, d_sae)

    def encode_dense(self, x):
        z = self.pre_activations(x).abs()
        return z * (z > self.floor)

    def training_step(self, x, context):
        acts = self.encode_dense(x)
        everything = Chosen(self.d_sae, None, sparse=False)
        return self.output(everything, acts, self.decode_dense(acts), {})
'''
LOSS = '''
"""The mean square of all cosines of decoder rows."""
import torch
from temporal_sae.registry import component


@component("loss")
class AllPairsLoss:
    through_latents = False
    needs_tracker = False

    def __init__(self, ortho_weight=1.0):
        self.ortho_weight = ortho_weight

    def planned_bytes(self, n_latents, d_in):
        return {}

    def check_tracker(self, tracker):
        pass

    def __call__(self, W_dec, tracker, latents=None):
        rows = torch.nn.functional.normalize(W_dec, dim=-1)
        return self.ortho_weight * (rows @ rows.T).square().mean()

    def add_gradient(self, W_dec, tracker, into):
        with torch.enable_grad():
            rows = W_dec.detach().requires_grad_()
            value = self(rows, tracker)
            into += torch.autograd.grad(value, rows)[0]
        return value.detach()
'''
LOGGER = '''
"""The steps alone."""
from pathlib import Path
from temporal_sae.registry import component
from temporal_sae.training import JsonlLogger


@component("logger")
class StepsLogger(JsonlLogger):
    def log(self, step, metrics):
        super().log(step, metrics)
        with Path(self.path).with_name("steps.txt").open("a") as file:
            file.write(f"{step}\\n")
'''
WEIGHTING = '''
"""The square root of the co-activation rate."""
from temporal_sae.tracker import weighting


@weighting("root")
def root(pairs):
    return pairs.rate.sqrt()
'''
MEASURE = '''
"""The largest value of any latent."""
import torch
from temporal_sae.metrics import CORE_SECTION, Metric, declare
from temporal_sae.registry import component


@component("measure")
class Largest:
    metrics = declare(
        Metric(
            name="largest_value",
            sections=(CORE_SECTION,),
            groups=("metrics", "misc_metrics"),
            better="lower",
            label="largest value",
            form="{:.2f}",
        )
    )

    def __init__(self, sae, device):
        self.largest = torch.zeros((), device=device)

    def add(self, x, latents, x_hat):
        self.largest = torch.maximum(self.largest, latents.values.max())

    def compute(self):
        return {"largest_value": float(self.largest)}
'''
FORMAT = '''
"""Two matrices that numpy has saved."""
import numpy as np
import torch
from temporal_sae.registry import component
from temporal_sae.sae import StandardSAE
from temporal_sae.sae.formats import Format, Stored


def read(path):
    W_enc, W_dec = (torch.from_numpy(array) for array in np.load(path).values())
    d_in, d_sae = W_enc.shape
    tensors = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": torch.zeros(d_sae)}
    return Stored(
        StandardSAE, {"d_in": d_in, "d_sae": d_sae}, {**tensors, "b_dec": torch.zeros(d_in)}
    )


component("format")(Format("two matrices", "sae.npz", "*.npz", "nothing", read))
'''
MODULES = {
    "absolute": ABSOLUTE,
    "all_pairs": LOSS,
    "steps_alone": LOGGER,
    "root": WEIGHTING,
    "largest": MEASURE,
    "matrices": FORMAT,
}

CONF = {
    "sae": "_target_: absolute.AbsoluteSAE\nd_sae: 64\nfloor: 0.5\n",
    "loss": "_target_: all_pairs.AllPairsLoss\northo_weight: 1.0\n",
    "logger": "_target_: steps_alone.StepsLogger\n",
}


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """What names them: modules that Python finds, and a YAML for some in a folder for Hydra."""
    before = dict(sys.modules)
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    for group, text in CONF.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "mine.yaml").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for place in registry.PACKAGES:  # what is imported from now on is forgotten afterwards
        registry.components(place)
    known = {place: list(classes) for place, classes in registry._announced.items()}
    monkeypatch.setattr(registry, "_announced", known)
    monkeypatch.setattr(metrics, "_declared", list(metrics.declared()))
    monkeypatch.setattr(weightings, "_announced", dict(weightings.all_weightings()))
    yield f"plugins=[{','.join(MODULES)}]"
    for name in (sys.modules.keys() - before.keys()) & MODULES.keys():
        del sys.modules[name]


def test_a_plugin_is_trained_saved_loaded_evaluated_and_reported(
    command, plugins, random_gemma, tmp_path
):
    run = tmp_path / "run"
    code, _, err = command(
        *(o for o in small(random_gemma) if not o.startswith("sae.k")),
        plugins,
        f"hydra.searchpath=[file://{tmp_path / 'conf'}]",
        *("sae=mine", "loss=mine", "logger=mine", "sae.floor=0.25", "loss.ortho_weight=0.5"),
        f"hydra.run.dir={run}",
    )
    assert code == 0, err
    assert (run / "steps.txt").read_text().split() == ["4", "8", "12", "16"]
    sae = load_sae(run / "sae")
    assert type(sae).__name__ == "AbsoluteSAE"
    assert sae.floor == 0.25
    assert bool((sae(torch.ones(3, 16)) != 0).any())
    trained = json.loads((run / "results.json").read_text())["training results for layer 1"]
    assert trained["config"]["dict_class"] == "AbsoluteSAE"
    (run / "eval" / "core.json").unlink()
    again = [plugins, "eval.n_reconstruction_sequences=4", "eval.n_sparsity_sequences=4"]
    assert evaluate(run, again) == {}
    assert (run / "eval" / "core.json").exists()
    assert "64 latents (AbsoluteSAE)" in build_report(run).read_text()


def test_a_weighting_and_a_measure_are_functions_of_one_file(command, plugins, random_gemma):
    options = (*small(random_gemma), plugins, "objective=largest_value", "hydra.run.dir=run")
    weights = ("loss.weighting=root", "loss.ortho_weight=30")
    code, out, err = command(*options, *weights)
    assert (code, err) == (0, "")
    assert "largest value" in out
    results = json.loads(Path("run/results.json").read_text())
    largest = results["core evaluation results"]["metrics"]["misc_metrics"]["largest_value"]
    assert largest > 0
    logged = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert logged[-1]["loss_orthogonality"] > 0


def test_root_weights_are_what_the_function_says(plugins):
    import_module("root")
    tracker = CoActivationTracker(3, window_size=4)
    tracker.update(torch.tensor([[0, 1], [0, 1], [0, 2], [1, -1]]))
    loss = OrthogonalityLoss(1.0, weighting="root", estimator="exact")
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    expected = (0.5**0.5 * 0.36) / (0.5**0.5 + 0.25**0.5)
    assert float(loss(rows, tracker)) == pytest.approx(expected)
    with pytest.raises(InvalidOption, match="estimator='sampled': must be exact"):
        OrthogonalityLoss(weighting="root", estimator="sampled")


def test_a_format_is_read_by_load_sae(plugins, tmp_path):
    import_module("matrices")
    rows = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    np.savez(tmp_path / "sae.npz", rows, rows.T.copy())
    sae = load_sae(tmp_path / "sae.npz")
    assert isinstance(sae, StandardSAE)
    assert np.array_equal(sae.W_enc.detach().numpy(), rows)
