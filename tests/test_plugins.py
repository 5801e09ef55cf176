"""Components of another package: one file each, from the command line to the report."""

import json
import sys

import pytest
import torch

from temporal_sae import registry
from temporal_sae.eval.__main__ import evaluate
from temporal_sae.report import build_report
from temporal_sae.sae import load_sae
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

CONF = {
    "sae": "_target_: absolute.AbsoluteSAE\nd_sae: 64\nfloor: 0.5\n",
    "loss": "_target_: all_pairs.AllPairsLoss\northo_weight: 1.0\n",
    "logger": "_target_: steps_alone.StepsLogger\n",
}


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """What names them: three modules that Python finds, and a YAML each in a folder for Hydra."""
    before = dict(sys.modules)
    for name, code in {"absolute": ABSOLUTE, "all_pairs": LOSS, "steps_alone": LOGGER}.items():
        (tmp_path / f"{name}.py").write_text(code)
    for group, text in CONF.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "mine.yaml").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    known = {place: list(classes) for place, classes in registry._announced.items()}
    monkeypatch.setattr(registry, "_announced", known)
    yield "plugins=[absolute,all_pairs,steps_alone]"
    for name in sys.modules.keys() - before.keys():
        if name in ("absolute", "all_pairs", "steps_alone"):
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
