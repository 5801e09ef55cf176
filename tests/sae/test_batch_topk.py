"""BatchTopK: the batch's largest latents, ties, and the threshold that inference uses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.sae import BatchTopKSAE, JumpReLUSAE, StepContext, load_sae

WAYS = pytest.mark.parametrize("way", [True, False, None])


def showing(columns, k, **options):
    """An SAE whose pre-activations are its input times these numbers; one feature."""
    sae = BatchTopKSAE(1, len(columns), k, **options)
    sae.W_enc.data = torch.tensor([columns])
    return sae


@WAYS
def test_the_batch_shares_its_slots(way):
    sae = showing([1.0, 2.0, 3.0], k=1)
    out = sae.training_step(torch.tensor([[10.0], [1.0]]), StepContext(0, None, way))
    assert out.latents.to_dense(3).tolist() == [[0, 20, 30], [0, 0, 0]]
    assert float(out.l0) == 1
    assert out.fired.tolist() == [False, True, True]


@WAYS
def test_all_that_equal_the_last_are_kept(way):
    sae = showing([1.0, 2.0, 1.0, 1.0, 0.5], k=2)
    out = sae.training_step(torch.tensor([[2.0]]), StepContext(0, None, way))
    assert out.latents.to_dense(5).tolist() == [[2, 4, 2, 2, 0]]
    assert float(out.l0) == 4


@WAYS
def test_a_tie_across_tokens_and_its_gradient(way):
    sae = showing([1.0, 2.0], k=1)
    sae.W_dec.data = torch.tensor([[1.0], [-1.0]])
    x = torch.tensor([[2.0], [1.0]])  # 2, 4 and 1, 2: the second largest is there twice
    out = sae.training_step(x, StepContext(0, None, way))
    assert out.latents.to_dense(2).tolist() == [[2, 4], [0, 2]]
    assert out.x_hat.tolist() == [[-2], [-2]]
    out.x_hat.sum().backward()
    assert sae.W_enc.grad.tolist() == [[2, -3]]
    assert sae.b_enc.grad.tolist() == [1, -2]
    assert sae.W_dec.grad.tolist() == [[2], [6]]


@WAYS
def test_what_is_not_positive_stays_off_although_there_is_room(way):
    sae = showing([1.0, -1.0, 0.0], k=3)
    out = sae.training_step(torch.tensor([[2.0], [-5.0]]), StepContext(0, None, way))
    assert out.latents.to_dense(3).tolist() == [[2, 0, 0], [0, 5, 0]]
    assert float(out.l0) == 1


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 12),
    st.booleans(),
    st.integers(0, 10_000),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_exactly_the_largest_of_the_batch(tokens, d_sae, k, way, seed):
    """With few different values, so that ties are everywhere."""
    torch.manual_seed(seed)
    k = min(k, d_sae)
    sae = BatchTopKSAE(2, d_sae, k)
    sae.W_enc.data = torch.randint(-2, 3, (2, d_sae)).float()
    x = torch.randint(-2, 3, (tokens, 2)).float()
    z = x @ sae.W_enc
    z = z.detach()
    least = z.flatten().sort(descending=True).values[tokens * k - 1].clamp(min=0)
    expected = z * ((z >= least) & (z > 0))
    out = sae.training_step(x, StepContext(0, None, way))
    assert torch.equal(out.latents.to_dense(d_sae), expected)
    if (z > 0).sum() >= tokens * k:
        assert (expected > 0).sum() >= tokens * k
        assert float(sae.threshold) == float(least)
    else:
        assert torch.equal(expected, z.relu())


def test_the_threshold_is_a_running_average_of_the_least():
    """That forgets faster while it is young: step n of it keeps min(β, (1 + n) / (10 + n))."""
    sae = showing([1.0, 3.0], k=1, threshold_beta=0.2, threshold_start_step=5)
    assert float(sae.threshold) < 0  # nothing yet
    expected = None
    for step, x in enumerate([[[4.0]], [[8.0]], [[2.0], [0.5]], [[1.0]]], start=5):
        sae.training_step(torch.tensor(x), StepContext(step))
        least = 2.0 if len(x) == 2 else 3 * x[0][0]  # 2, 6, 0.5, 1.5: the second largest is 2
        n = step - 5
        keep = min(0.2, (1 + n) / (10 + n))
        expected = least if expected is None else keep * expected + (1 - keep) * least
        assert float(sae.threshold) == pytest.approx(expected, rel=1e-6)
    assert keep == 0.2  # from the second step on


@given(st.floats(0, 1), st.integers(0, 3), st.lists(st.floats(0.1, 10), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_any_running_average(beta, start, sizes):
    sae = showing([1.0], k=1, threshold_beta=beta, threshold_start_step=start)
    expected = -1.0
    for step, size in enumerate(sizes):
        sae.training_step(torch.tensor([[size]]), StepContext(step))
        if (age := step - start) >= 0:
            keep = min(beta, (1 + age) / (10 + age))
            expected = size if expected < 0 else keep * expected + (1 - keep) * size
        assert float(sae.threshold) == pytest.approx(expected, rel=1e-5)


def test_the_threshold_waits_for_its_first_step_and_passes_over_silent_batches():
    sae = showing([1.0, 3.0], k=1, threshold_start_step=2)
    for step in (0, 1):
        sae.training_step(torch.tensor([[4.0]]), StepContext(step))
        assert float(sae.threshold) < 0
    sae.training_step(torch.tensor([[-4.0]]), StepContext(2))
    assert float(sae.threshold) < 0
    sae.training_step(torch.tensor([[4.0]]), StepContext(3))
    assert float(sae.threshold) == 12
    sae.training_step(torch.tensor([[-4.0]]), StepContext(4))
    assert float(sae.threshold) == 12
    # fewer than B·k are positive: everything positive was active, and says nothing of a threshold
    sae.training_step(torch.tensor([[1.0], [-1.0], [-1.0], [-1.0]]), StepContext(5))
    assert float(sae.threshold) == 12


def test_inference_keeps_what_exceeds_the_threshold_whatever_the_batch():
    sae = showing([1.0, 3.0], k=1)
    x = torch.tensor([[1.0], [4.0], [0.5], [-2.0]])
    assert sae.encode_dense(x).tolist() == [[1, 3], [4, 12], [0.5, 1.5], [0, 0]]  # none yet: ReLU
    sae.threshold.fill_(1.5)
    assert sae.encode_dense(x).tolist() == [[0, 3], [4, 12], [0, 0], [0, 0]]
    alone = torch.cat([sae.encode_dense(row[None]) for row in x])
    assert torch.equal(alone, sae.encode_dense(x))


def test_inference_moves_no_threshold():
    sae = BatchTopKSAE(4, 12, 2)
    sae.threshold.fill_(0.25)
    sae(torch.randn(9, 4))
    sae.encode(torch.randn(9, 4))
    assert float(sae.threshold) == 0.25


def test_at_the_threshold_of_training_l0_is_k():
    torch.manual_seed(0)
    sae = BatchTopKSAE(16, 200, 5)
    for step in range(100):
        sae.training_step(torch.randn(128, 16), StepContext(step))
    assert float(sae.encode(torch.randn(2000, 16)).l0()) == pytest.approx(5, rel=0.05)


def test_the_threshold_is_no_parameter_but_part_of_the_state():
    sae = BatchTopKSAE(4, 12, 2)
    assert "threshold" in sae.state_dict()
    assert "threshold" not in dict(sae.named_parameters())


def test_is_saved_as_the_jumprelu_that_it_computes(tmp_path):
    sae = BatchTopKSAE(4, 12, 2)
    for step in range(3):
        sae.training_step(torch.randn(8, 4), StepContext(step))
    sae.save(tmp_path)
    x = torch.randn(9, 4)
    again = load_sae(tmp_path)
    assert type(again) is BatchTopKSAE
    assert again.config() == sae.config()
    assert torch.equal(again(x), sae(x))
    cfg = tmp_path / "cfg.json"
    assert '"architecture": "jumprelu"' in cfg.read_text()
    bare = JumpReLUSAE(4, 12)  # what a reader that knows nothing of BatchTopK makes of it
    bare.load_state_dict(sae.tensors())
    assert torch.equal(bare(x), sae(x))


def test_thresholds_that_differ_are_no_batch_topk(tmp_path):
    class Uneven(BatchTopKSAE):
        def tensors(self):
            return {**super().tensors(), "threshold": torch.arange(12.0)}

    Uneven(4, 12, 2).save(tmp_path)
    with pytest.raises(RunError, match="threshold: differs between latents"):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"k": 25},
        {"k": 0},
        {"auxk_weight": -1},
        {"k_aux": 0},
        {"k_aux": 25},
        {"threshold_beta": 1.1},
        {"threshold_beta": -0.1},
        {"threshold_start_step": -1},
        {"threshold_start_step": 1.5},
    ],
)
def test_bad_options(options):
    with pytest.raises(InvalidOption) as raised:
        BatchTopKSAE(**{"d_in": 4, "d_sae": 24, "k": 4, **options})
    assert raised.value.option == next(iter(options))
