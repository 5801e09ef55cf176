"""Core metrics where theory knows the answer."""

import math

import pytest
import torch

from temporal_sae.activations import Harvest
from temporal_sae.data import TextFiles
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval import CoreEvaluation, EvaluationFiles, Subject, decoder_metrics
from temporal_sae.eval.behavior import cross_entropy, kept, kl_divergence, recovered
from temporal_sae.eval.decoder import max_cosines
from temporal_sae.eval.latent_use import LatentUse
from temporal_sae.eval.reconstruction import ReconstructionSums
from temporal_sae.latents import Latents
from temporal_sae.sae import StandardSAE

EVALUATION = CoreEvaluation(lm_batch_size=4, n_reconstruction_sequences=6, n_sparsity_sequences=10)


def identity_sae(d, keep=None):
    """x = ReLU(x) - ReLU(-x) on the first `keep` axes of a rotated space."""
    sae = StandardSAE(d, 2 * d)
    axes = torch.eye(d)
    sae.W_enc.data = torch.cat([axes, -axes], dim=1)
    sae.W_dec.data = torch.cat([axes, -axes])
    sae.b_enc.data.zero_()
    sae.b_dec.data.zero_()
    return sae


def source_of(model, folder, held_out_fraction=0.5):
    text = TextFiles(str(folder), held_out_fraction=held_out_fraction)
    source = Harvest(context_size=16, lm_batch_size=4, buffer_tokens=64, model=model, text=text)
    source.open()
    return source


def evaluate(sae, model, folder):
    return EVALUATION.measure(sae, source_of(model, folder))


def test_identity_recovers_everything(small_model, text_folder):
    metrics = evaluate(identity_sae(16), small_model, text_folder)
    assert metrics["model_performance_preservation"]["ce_loss_score"] == pytest.approx(1, abs=1e-3)
    assert metrics["model_behavior_preservation"]["kl_div_score"] == pytest.approx(1, abs=1e-3)
    quality = metrics["reconstruction_quality"]
    assert quality["explained_variance"] == pytest.approx(1, abs=1e-5)
    assert quality["explained_variance_legacy"] == pytest.approx(1, abs=1e-5)
    assert quality["mse"] == pytest.approx(0, abs=1e-8)
    assert quality["cossim"] == pytest.approx(1, abs=1e-5)
    assert metrics["shrinkage"]["l2_ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["shrinkage"]["relative_reconstruction_bias"] == pytest.approx(1, abs=1e-5)
    assert metrics["sparsity"]["l0"] == pytest.approx(16, abs=0.1)


@pytest.mark.parametrize("value", [0.0, 3.0, 1e3, 1e-9])
def test_of_what_does_not_vary_no_share_is_explained(value):
    sums = ReconstructionSums(16, torch.device("cpu"))
    x = torch.full((40, 16), value) * (1 + 1e-7 * torch.randn(40, 16))
    sums.add(x, Latents(torch.zeros(40, 1), torch.zeros(40, 1, dtype=torch.int64)), x + 0.3)
    quality, intervals = sums.metrics()["reconstruction_quality"], sums.intervals(seed=0)
    assert not sums.varies
    for name in ("explained_variance", "explained_variance_legacy"):
        assert all(map(math.isnan, (quality[name], *intervals[name])))
    assert quality["mse"] == pytest.approx(0.09, rel=0.02)


def test_small_activations_that_vary_are_explained():
    sums = ReconstructionSums(16, torch.device("cpu"))
    x = 1e-8 * torch.randn(40, 16)
    sums.add(x, Latents(torch.zeros(40, 1), torch.zeros(40, 1, dtype=torch.int64)), x / 2)
    assert sums.metrics()["reconstruction_quality"]["explained_variance"] == pytest.approx(
        0.75, 0.1
    )


def test_zeros_that_change_nothing():
    assert kept(0.3, 0.0) == kept(0.3, 1e-14) == 0
    assert recovered(2.0, 3.0, 2.0) == recovered(2.0, 3.0, 2.0 + 1e-14) == 0


def test_zeros_recover_nothing(small_model, text_folder):
    sae = identity_sae(16)
    sae.b_enc.data.fill_(-1e6)
    metrics = evaluate(sae, small_model, text_folder)
    assert metrics["model_performance_preservation"]["ce_loss_score"] == pytest.approx(0, abs=1e-6)
    assert metrics["model_behavior_preservation"]["kl_div_score"] == pytest.approx(0, abs=1e-6)
    assert metrics["sparsity"] == {"l0": 0, "l1": 0}
    assert metrics["misc_metrics"]["dead_share"] == 1
    assert metrics["misc_metrics"]["frac_alive"] == 0


def test_cross_entropy_of_the_untouched_model(small_model, text_folder):
    metrics = evaluate(identity_sae(16), small_model, text_folder)
    sequences = source_of(small_model, text_folder).sequences("held_out", 0)
    tokens = torch.stack([next(sequences) for _ in range(6)])
    expected = small_model.model(input_ids=tokens, labels=tokens).loss
    measured = metrics["model_performance_preservation"]["ce_loss_without_sae"]
    assert measured == pytest.approx(float(expected), rel=1e-5)
    assert metrics["token_stats"]["total_tokens_eval_reconstruction"] == 6 * 15
    assert metrics["token_stats"]["total_tokens_eval_sparsity_variance"] == 10 * 15


def test_known_variance_does_not_depend_on_batches():
    torch.manual_seed(0)
    x = torch.randn(1000, 8) * torch.arange(1, 9) + 50  # far from zero, where the peers go wrong
    x_hat = x.clone()
    x_hat[:, :4] = 50.0  # the last four axes are kept: their share of the variance is known
    expected = sum(n * n for n in range(5, 9)) / sum(n * n for n in range(1, 9))
    latents = Latents(torch.ones(1000, 1), torch.zeros(1000, 1, dtype=torch.int64))
    values = []
    for pieces in (1, 7):
        sums = ReconstructionSums(8, torch.device("cpu"))
        for a, b in zip(x.tensor_split(pieces), x_hat.tensor_split(pieces), strict=True):
            sums.add(a, Latents(*(t[: len(a)] for t in latents)), b)
        values.append(sums.metrics()["reconstruction_quality"])
    assert values[0]["explained_variance"] == pytest.approx(expected, abs=0.02)
    assert values[0]["explained_variance"] == pytest.approx(values[1]["explained_variance"])
    assert values[0]["mse"] == pytest.approx(values[1]["mse"])
    assert float((x - x_hat).square().mean()) == pytest.approx(values[0]["mse"], rel=1e-5)


def test_density_by_hand():
    use = LatentUse(StandardSAE(2, 4), torch.device("cpu"))
    indices = torch.tensor([[0, 1]] * 5 + [[0, -1]] * 95)
    values = (indices >= 0).float()
    use.add(torch.randn(100, 2), Latents(values, indices), torch.randn(100, 2))
    misc = use.compute()
    assert misc["frac_alive"] == 0.5
    assert misc["freq_over_1_percent"] == 0.5
    assert misc["freq_over_10_percent"] == 0.25


def test_scores_by_hand():
    assert recovered(12.4375, 3.09375, 2.9375) == pytest.approx(
        0.9835526315789473
    )  # a reference run
    log_p = torch.tensor([[[0.5, 0.5]]]).log()
    log_q = torch.tensor([[[0.25, 0.75]]]).log()
    expected = 0.5 * (torch.tensor(2.0).log() + torch.tensor(2 / 3).log())
    assert float(kl_divergence(log_p, log_q)) == pytest.approx(float(expected), rel=1e-5)
    assert float(cross_entropy(log_q, torch.tensor([[0]]))) == pytest.approx(1.3862944, rel=1e-5)


def test_no_held_out_text(small_model, text_folder):
    nothing = source_of(small_model, text_folder, held_out_fraction=0)
    with pytest.raises(RunError, match="the held_out text holds 0 tokens"):
        EVALUATION.measure(identity_sae(16), nothing)


def test_bad_options():
    with pytest.raises(InvalidOption, match="n_sparsity_sequences"):
        CoreEvaluation(n_sparsity_sequences=0)


def test_decoder_measures():
    orthogonal = decoder_metrics(torch.eye(6))
    assert orthogonal["decoder_effective_rank"] == pytest.approx(6, rel=1e-4)
    assert orthogonal["decoder_mean_max_cosine"] == pytest.approx(0, abs=1e-6)
    W_dec = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.6, 0.8]])
    assert max_cosines(W_dec, chunk=2).tolist() == pytest.approx([1.0, 1.0, 0.6])


def test_intervals_hold_the_metric_and_shrink_with_more_sequences():
    torch.manual_seed(0)
    widths = []
    for n_sequences in (20, 320):
        sums = ReconstructionSums(8, torch.device("cpu"))
        for _ in range(4):
            counted = torch.rand(n_sequences // 4, 16) < 0.7
            x = torch.randn(int(counted.sum()), 8) + 30
            latents = Latents(torch.ones(len(x), 1), torch.zeros(len(x), 1, dtype=torch.int64))
            sums.add(x, latents, x + 0.5 * torch.randn_like(x), counted)
        quality = sums.metrics()["reconstruction_quality"]
        intervals = sums.intervals(seed=0)
        for name in ("explained_variance", "explained_variance_legacy", "mse", "cossim"):
            low, high = intervals[name]
            assert low < quality[name] < high
        widths.append(intervals["explained_variance"][1] - intervals["explained_variance"][0])
        assert intervals["l0"] == (1.0, 1.0)
    assert widths[1] < 0.5 * widths[0]


def test_the_section_holds_intervals_of_the_scores(small_model, text_folder, tmp_path):
    sae = identity_sae(16)
    source, files = source_of(small_model, text_folder), EvaluationFiles(tmp_path, {})
    section = EVALUATION.run(Subject(sae, tmp_path, source, files)).sections
    intervals = section["core evaluation results"]["intervals"]
    assert intervals["ce_loss_score"] == pytest.approx((1, 1), abs=1e-3)
    assert intervals["kl_div_score"] == pytest.approx((1, 1), abs=1e-3)
    assert intervals["explained_variance"] == pytest.approx((1, 1), abs=1e-5)
