"""What sae_bench does that would lose or spoil a result, each with what is done against it.

The numbers are those of the traps as they were found with sae_bench 0.6.
"""

import dataclasses
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

pytest.importorskip("sae_bench", reason="needs the bench extra")

from temporal_sae.errors import RunError
from temporal_sae.eval.saebench import collect, entries, guards
from temporal_sae.eval.saebench.options import CHOICES, DEFAULTS, artifacts_name
from temporal_sae.files import write_json
from temporal_sae.sae import StandardSAE
from tests.bench.standins import build_main
from tests.bench.standins.inside import as_in_the_worker, evaluate_inside, make_job
from tests.bench.standins.models import WIDTH
from tests.bench.standins.saes import linear_sae, toy_sae

SHARED = {"model_name", "random_seed", "llm_batch_size", "llm_dtype", "perform_scr"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return build_main(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def inside(tmp_path, hub):
    with as_in_the_worker(tmp_path / "work", hub):
        yield tmp_path / "work"


@pytest.fixture(scope="module")
def axes(tmp_path_factory, hub):
    """Core on an SAE that keeps 24 of the 64 axes, by the windows in a batch; same text."""
    sae = linear_sae(torch.eye(WIDTH)[:24], torch.zeros(WIDTH))
    records = {}
    for windows, batches in ((4, 4), (16, 1)):
        work = tmp_path_factory.mktemp("axes") / "work"
        names = ("n_eval_reconstruction_batches", "n_eval_sparsity_variance_batches")
        sizes = {"batch_size_prompts": windows, **dict.fromkeys(names, batches)}
        records[windows] = evaluate_inside(sae, work, hub, "core", **sizes)
    return records


@pytest.fixture(scope="module")
def silent(tmp_path_factory, hub):
    """Core on an SAE whose latents never fire."""
    sae = StandardSAE(WIDTH, 80)
    sae.b_enc.data.fill_(-1e6)
    return evaluate_inside(sae, tmp_path_factory.mktemp("silent") / "work", hub, "core")


def test_1_artifacts_of_other_sizes_would_be_read(inside):
    """File names tell nothing of the sizes, so each configuration has a folder of its own."""
    from sae_bench.evals.scr_and_tpp import main

    source = Path(main.__file__).read_text()
    assert "_activations.pt" in source and "train_set_size}" not in source
    jobs = [make_job(inside, "scr", train_set_size=size) for size in (64, 32)]
    assert len({artifacts_name(job, None) for job in jobs}) == 2


def test_2_absorption_would_write_into_the_package(inside):
    from sae_bench.evals.absorption import main

    package = Path(sys.modules["sae_bench"].__path__[0])
    names = ("run_k_sparse_probing_experiment", "run_feature_absortion_experiment")
    for name in names:
        defaults = [v for v in getattr(main, name).__defaults__ if isinstance(v, Path)]
        assert defaults and all(package in folder.parents for folder in defaults)
    entries.use_folders(main, inside / "kept")
    for name in names:
        for key, folder in getattr(main, name).keywords.items():
            assert key.endswith("_dir") and inside in Path(folder).parents


def test_3_words_would_come_in_another_order_in_each_process(inside):
    from sae_bench.evals.absorption import common

    class Tokenizer:
        vocab = dict.fromkeys(["zoo", "apple", "12", "mouse"])

        def convert_tokens_to_string(self, tokens):
            return tokens[0]

    assert common.get_alpha_tokens(Tokenizer()) == ["zoo", "apple", "mouse"]
    guards.replace(common, "get_alpha_tokens", guards.with_sorted_result)
    assert common.get_alpha_tokens(Tokenizer()) == ["apple", "mouse", "zoo"]


def test_3_what_is_drawn_would_depend_on_what_was_drawn_before(inside):
    from sae_bench.evals.absorption import probing

    words = [f"w{n}" for n in range(100)]
    guards.seeded(probing, "create_dataset_probe_training", 7)

    def split():
        return probing.create_dataset_probe_training(
            vocab=words,
            formatter=lambda word: " W",
            num_prompts_per_token=1,
            base_template="{word}:",
        )

    first = split()
    torch.rand(3)
    assert split() == first


def test_5_core_would_swallow_its_errors(tmp_path, hub):
    broken = StandardSAE(WIDTH + 1, 80)
    with pytest.raises(RunError, match=r"Failed to evaluate SAE custom_sae .*size"):
        evaluate_inside(broken, tmp_path / "work", hub, "core")


def test_6_absorption_would_end_without_a_word(tmp_path, hub):
    with pytest.raises(RunError, match=r"fewer than min_feats_for_eval=27 of 26 first letters"):
        evaluate_inside(toy_sae(), tmp_path / "work", hub, "absorption", min_feats_for_eval=27)


def test_7_explained_variance_is_the_textbook_one(axes):
    """Rows 24 to 64 of the activations are lost, and their means with them."""
    section = collect.core_section(axes[4])
    quality = section["metrics"]["reconstruction_quality"]
    assert quality["explained_variance"] < 0.9 * quality["explained_variance_saebench"]
    assert quality["explained_variance_legacy"] < quality["explained_variance"]


def test_8_mse_would_depend_on_the_batch(axes):
    small, large = (collect.core_section(axes[n])["metrics"] for n in (4, 16))
    small, large = small["reconstruction_quality"], large["reconstruction_quality"]
    assert small["mse"] > 3.9 * large["mse"]
    assert small["mse_per_element"] == pytest.approx(large["mse_per_element"], rel=1e-6)
    assert small["explained_variance"] == pytest.approx(large["explained_variance"], rel=1e-6)


def test_9_what_is_no_number_would_be_minus_one(silent, tmp_path):
    write_json(tmp_path / "record.json", silent)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["eval_result_metrics"]["reconstruction_quality"]["cossim"] is None
    details = record["eval_result_details"]
    assert all(d["consistent_activation_heuristic"] is None for d in details)
    assert record["eval_result_metrics"]["misc_metrics"]["frac_alive"] == 0
    assert -1 not in {value for detail in details for value in detail.values()}


def test_10_other_numbers_of_latents_would_be_dropped(inside):
    from sae_bench.evals.scr_and_tpp.eval_output import ScrMetrics, TppMetrics
    from sae_bench.evals.sparse_probing.eval_output import SparseProbingSaeMetrics

    def numbers(metrics, prefix, suffix):
        names = [field.name for field in dataclasses.fields(metrics)]
        found = {n.removeprefix(prefix).removesuffix(suffix) for n in names if n.startswith(prefix)}
        return tuple(sorted(map(int, found)))

    assert numbers(ScrMetrics, "scr_metric_threshold_", "") == CHOICES["n_values"]
    totals = "_total_metric"
    names = [f.name for f in dataclasses.fields(TppMetrics) if f.name.endswith(totals)]
    assert len(names) == len(CHOICES["n_values"])
    assert numbers(SparseProbingSaeMetrics, "sae_top_", "_test_accuracy") == CHOICES["k_values"]
    assert not hasattr(ScrMetrics(scr_metric_threshold_3=1.0), "scr_metric_threshold_3")


@pytest.mark.parametrize(("second", "ties"), [(0.5, ["bios"]), (0.6, [])])
def test_11_pairs_that_tie_would_be_missing_silently(inside, second, ties):
    from sae_bench.evals.scr_and_tpp import main
    from sae_bench.evals.scr_and_tpp.eval_output import ScrResultDetail

    probe = "male_professor / female_nurse"
    columns = ("professor / nurse", "male / female")
    clean = {f"{probe} probe on {columns[0]} data": 0.5, columns[0]: 0.9, columns[1]: 0.9}
    clean[f"{probe} probe on {columns[1]} data"] = second
    ablated = {column: {2: dict.fromkeys(clean, 0.7)} for column in columns}
    scores = main.get_scr_plotting_dict(ablated, clean)
    detail = dataclasses.asdict(ScrResultDetail(dataset_name="bios", **scores))
    assert entries.scr_ties({"eval_result_details": [detail]}) == ties


def test_12_the_revision_would_be_that_of_the_callers_repository(tmp_path, monkeypatch):
    from sae_bench.sae_bench_utils import get_sae_bench_version

    monkeypatch.chdir(tmp_path)
    name = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", *name, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    foreign = get_sae_bench_version()
    assert len(foreign) == 40
    record = guards.finished({"sae_bench_commit_hash": foreign})
    assert record["sae_bench_commit_hash"] == version("sae-bench")


def test_13_results_that_are_there_would_be_taken(tmp_path, hub):
    """Two SAEs of one name in one folder: the second one is measured."""
    work = tmp_path / "work"
    sizes = {"n_eval_reconstruction_batches": 1, "n_eval_sparsity_variance_batches": 1}
    counts = [
        evaluate_inside(toy_sae(k=k), work, hub, "core", **sizes)["eval_result_metrics"]
        for k in (16, 4)
    ]
    assert [c["sparsity"]["l0"] for c in counts] == [16, 4]


@pytest.mark.parametrize("evaluation", ["scr", "sparse_probing", "absorption", "tpp"])
def test_14_an_evaluation_could_write_into_our_options(inside, evaluation):
    from sae_bench.evals.absorption.eval_config import AbsorptionEvalConfig
    from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
    from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig

    classes = {"sparse_probing": SparseProbingEvalConfig, "absorption": AbsorptionEvalConfig}
    job = make_job(inside, evaluation)
    before = json.dumps(job.options)
    config = guards.make_config(classes.get(evaluation, ScrAndTppEvalConfig), job)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, (list, dict)):
            value.clear()
    assert json.dumps(job.options) == before
    fields = {field.name for field in dataclasses.fields(config)} - SHARED
    extra = {"column1_vals_lookup"} if evaluation == "tpp" else set()
    assert fields - extra == set(DEFAULTS[evaluation])


def test_14_values_that_saebench_refuses_are_one_line(inside):
    from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig

    job = make_job(inside, "scr")
    job.options["column1_vals_lookup"] = {"LabHC/bias_in_bios_class_set1": [["nurse"]]}
    with pytest.raises(RunError, match=r"^eval\.scr\.column1_vals_lookup") as caught:
        guards.make_config(ScrAndTppEvalConfig, job)
    assert "\n" not in str(caught.value)


def test_15_absorption_is_better_when_lower():
    told = collect.comparability("absorption", {})
    assert {entry["better"] for entry in told} == {"lower"}
    assert {entry["metric"] for entry in told} >= {
        "mean_absorption_score",
        "mean_full_absorption_score",
        "mean_absorption_fraction_score",
    }
