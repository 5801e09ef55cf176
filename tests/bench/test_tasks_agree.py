"""Sparse probing, SCR and TPP give what sae_bench's own functions give for the same activations."""

from types import SimpleNamespace

import jaxtyping
import pytest
import torch

pytest.importorskip("sae_bench", reason="needs the bench extra")

from temporal_sae.eval.tasks import probes, scr, sparse_probing, tpp
from temporal_sae.eval.tasks.activations import Table, pool
from temporal_sae.sae import TopKSAE

D, L = 24, 12
CLASSES = ("asyncio", "email", "importlib", "xml")
KINDS = ("docstring", "code")
SEED = 5
N_VALUES = [2, 5, 20]
# SAEBench's names for the three pairs of sets.
SAEBENCH_NAMES = {
    "kind": ("male / female", "female_data_only"),
    "package": ("professor / nurse", "nurse_data_only"),
    "biased": ("male_professor / female_nurse", "female_nurse_data_only"),
}


@pytest.fixture(scope="module")
def bench():
    """The modules of sae_bench, without their annotations, which do not hold everywhere."""
    from sae_bench.evals.scr_and_tpp import main
    from sae_bench.evals.sparse_probing import probe_training
    from sae_bench.sae_bench_utils import activation_collection

    grad, disabled = torch.is_grad_enabled(), jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield SimpleNamespace(main=main, training=probe_training, collection=activation_collection)
    jaxtyping.config.update("jaxtyping_disable", disabled)
    torch.set_grad_enabled(grad)  # some of sae_bench's functions switch it


class ForSAEBench:
    """Our SAE as sae_bench's functions want it: dense latents of [B, L, D]."""

    def __init__(self, sae):
        self.sae, self.W_dec, self.dtype = sae, sae.W_dec, torch.float32

    def encode(self, x):
        return self.sae.encode_dense(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def decode(self, f):
        return f @ self.W_dec + self.sae.b_dec


def make_cells(n_rows, seed, padded):
    """Activations [rows, L, D] of each cell: directions of package and kind in noise."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(6, D, generator=torch.Generator().manual_seed(0))
    cells = {}
    for p, package in enumerate(CLASSES):
        for k, kind in enumerate(KINDS):
            x = 1.5 * torch.randn(n_rows, L, D, generator=generator)
            x += 0.6 * directions[p] + 0.5 * directions[4 + k]
            lengths = torch.randint(4 if padded else L, L + 1, (n_rows,), generator=generator)
            counted = torch.arange(L) < lengths[:, None]
            cells[package, kind] = (x * counted[..., None], counted)
    return cells


def table_of(cells, sae):
    pooled = [pool(x, counted, sae) for x, counted in cells.values()]
    numbers = torch.arange(sum(len(p.x) for p in pooled)).split(len(pooled[0].x))
    return Table(
        torch.cat([p.x for p in pooled]),
        torch.cat([p.f for p in pooled]),
        dict(zip(cells, numbers, strict=True)),
    )


@pytest.fixture(scope="module", params=["padded", "biased"])
def data(request):
    """An SAE, and the cells of both sides with their tables.

    Where texts are padded, sae_bench ablates at the padding too, in what the SAE makes of zeros.
    Ours leaves padding out, so that SAE makes nothing of zeros, and the one that does has none.
    """
    padded = request.param == "padded"
    torch.manual_seed(1)
    sae = TopKSAE(D, 96, k=6).requires_grad_(False)
    if not padded:
        sae.b_dec.copy_(0.3 * torch.randn(D))
        sae.b_enc.copy_(0.3 * torch.randn(96))
    train, test = make_cells(80, 10, padded), make_cells(60, 11, padded)
    return SimpleNamespace(
        sae=sae,
        train_cells=train,
        test_cells=test,
        train=table_of(train, sae),
        test=table_of(test, sae),
    )


def by_package(cells):
    return {p: torch.cat([cells[p, kind][0] for kind in KINDS]) for p in CLASSES}


def test_pooling(bench, data):
    sae, train, table = data.sae, data.train_cells, data.train
    own = {p: table.of(*scr.cells_of([p])) for p in CLASSES}
    x = bench.collection.create_meaned_model_activations(by_package(train))
    f = bench.collection.get_sae_meaned_activations(by_package(train), ForSAEBench(sae), 50)
    for package in CLASSES:
        assert torch.allclose(table.x[own[package]], x[package], atol=1e-5)
        assert torch.allclose(table.f[own[package]], f[package], atol=1e-5)


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("latents", [True, False])
def test_sparse_probing(bench, data, k, latents):
    train, test = data.train, data.test
    learned, tested = (train.f, test.f) if latents else (train.x, test.x)
    rows = [[t.of(*scr.cells_of([p])) for p in CLASSES] for t in (train, test)]
    splits = sparse_probing.draw_splits(*rows, torch.Generator().manual_seed(SEED))
    ours = sparse_probing.probe_classes(learned, tested, splits, k).accuracies()
    torch.manual_seed(SEED)
    _, theirs = bench.training.train_probe_on_activations(
        {p: learned[r] for p, r in zip(CLASSES, rows[0], strict=True)},
        {p: tested[r] for p, r in zip(CLASSES, rows[1], strict=True)},
        select_top_k=k,
    )
    assert ours.tolist() == pytest.approx(list(theirs.values()), abs=0.01)
    assert ours.mean() > 0.55  # there is something to agree about


PROBE_OPTIONS = {
    "select_top_k": None,
    "use_sklearn": False,
    "batch_size": 16,
    "epochs": 20,
    "lr": 1e-3,
    "early_stopping_patience": 20,
    "l1_penalty": 1e-3,
}


def their_tpp(bench, train, test, sae, monkeypatch, reseed):
    """(scores, accuracies of the probes) by sae_bench's functions, in the order of its main."""
    meaned = [bench.collection.create_meaned_model_activations(c) for c in (train, test)]
    torch.manual_seed(SEED)
    trained, _ = bench.training.train_probe_on_activations(*meaned, **PROBE_OPTIONS)
    torch.set_grad_enabled(False)
    state = torch.get_rng_state()
    clean = bench.main.get_probe_test_accuracy(trained, list(CLASSES), meaned[1], 500, False)
    adapted = ForSAEBench(sae)
    effects = bench.main.get_all_node_effects_for_one_sae(
        adapted, trained, list(CLASSES), False, train, 50
    )
    if reseed:  # the same test rows for every measurement, as ours
        measure = bench.main.get_probe_test_accuracy

        def same_rows(*arguments):
            torch.set_rng_state(state)
            return measure(*arguments)

        monkeypatch.setattr(bench.main, "get_probe_test_accuracy", same_rows)
    ablated = bench.main.perform_feature_ablations(
        trained, adapted, 50, test, effects, N_VALUES, list(CLASSES), 500, False
    )
    return bench.main.create_tpp_plotting_dict(ablated, clean)[0], clean


@pytest.mark.parametrize("reseed", [True, False])
def test_tpp(bench, data, monkeypatch, reseed):
    sae, train, test = data.sae, data.train, data.test
    generator = torch.Generator().manual_seed(SEED)
    verdicts = tpp.judge(train, test, CLASSES, N_VALUES, sae.W_dec, generator)
    accuracies = verdicts.accuracies()
    differences = tpp.accuracy_differences(accuracies, len(CLASSES), len(N_VALUES))
    ours = tpp.perturbation_scores(differences).mean(-1)
    theirs, clean = their_tpp(
        bench, by_package(data.train_cells), by_package(data.test_cells), sae, monkeypatch, reseed
    )
    assert accuracies[: len(CLASSES)].tolist() == pytest.approx(list(clean.values()), abs=1e-6)
    for n, total, intended, unintended in zip(N_VALUES, *ours, strict=True):
        name = f"tpp_threshold_{n}"
        assert total == pytest.approx(theirs[f"{name}_total_metric"], abs=0.02)
        assert intended == pytest.approx(theirs[f"{name}_intended_diff_only"], abs=0.02)
        assert unintended == pytest.approx(theirs[f"{name}_unintended_diff_only"], abs=0.02)
    assert ours[0].max() > 0.05


def scr_sets(cells, n):
    """SAEBench's six sets of [rows, L, D] for the packages A and B."""
    sets = {}
    for role, names in SAEBENCH_NAMES.items():
        each = 2 * n if role == "biased" else n
        for name, side in zip(names, scr.sides_of(CLASSES[:2])[role], strict=True):
            sets[name] = torch.cat([cells[cell][0][:each] for cell in side])
    return sets


def test_scr(bench, data):
    sae, train, test = data.sae, data.train, data.test
    task = scr.SpuriousCorrelationRemoval(n_values=N_VALUES, train_rows=40, test_rows=30)
    sets = [scr_sets(c, n) for c, n in ((data.train_cells, 40), (data.test_cells, 30))]
    meaned = [bench.collection.create_meaned_model_activations(s) for s in sets]
    theirs, plans = {}, {}
    for role, (name, other) in SAEBENCH_NAMES.items():
        # The first of the sets is trained first; the others are short, but they have to be there.
        first = [{name: m[name], other: m[other]} for m in meaned]
        for own, every in zip(first, meaned, strict=True):
            own |= {key: rows[:4] for key, rows in every.items() if key not in own}
        torch.manual_seed(SEED)
        trained, _ = bench.training.train_probe_on_activations(
            *first, perform_scr=True, **PROBE_OPTIONS
        )
        theirs[name] = trained[name]
        generator = torch.Generator().manual_seed(SEED)
        plans[role] = task.plan(role, train, test, CLASSES[:2], generator)
    torch.set_grad_enabled(False)
    ours = dict(zip(plans, probes.train_probes(list(plans.values()), train.x, test.x), strict=True))
    for role, (name, _) in SAEBENCH_NAMES.items():
        assert torch.allclose(ours[role].weight, theirs[name].net.weight[0], atol=1e-4)
        assert torch.allclose(ours[role].bias, theirs[name].net.bias[0], atol=1e-4)

    names = list(theirs)
    adapted = ForSAEBench(sae)
    effects = bench.main.get_all_node_effects_for_one_sae(adapted, theirs, names, True, sets[0], 50)
    own_effects = scr.attribute_effects(train.f, plans, ours, sae.W_dec)
    for role, own in zip(("kind", "package"), own_effects, strict=True):
        assert torch.allclose(own, effects[SAEBENCH_NAMES[role][0]], atol=1e-5)
    clean = bench.main.get_probe_test_accuracy(theirs, names, meaned[1], 500, True)
    ablated = bench.main.perform_feature_ablations(
        theirs, adapted, 50, sets[1], effects, N_VALUES, names, 500, True
    )
    expected = bench.main.get_scr_plotting_dict(ablated, clean)
    balanced = test.of(*scr.cells_of(CLASSES[:2]), at_most=30)
    verdicts = scr.judge(test.x[balanced], test.f[balanced], ours, own_effects, N_VALUES, sae.W_dec)
    metric = scr.metric_of(verdicts.accuracies())
    directions = scr.direction_scores(verdicts.accuracies())
    for number, n in enumerate(N_VALUES):
        assert metric[number] == pytest.approx(expected[f"scr_metric_threshold_{n}"], abs=0.02)
        for d in (0, 1):
            theirs_d = expected[f"scr_dir{d + 1}_threshold_{n}"]
            assert directions[number, d] == pytest.approx(theirs_d, abs=0.02)
    assert abs(metric).max() > 0.05
