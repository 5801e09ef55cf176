"""Each measure on dictionaries whose scores can be worked out with a pencil."""

import math

import pytest
import torch

from temporal_sae.eval import GroundTruthEvaluation
from tests.eval.ground_truth.by_hand import ByHand, dictionary

ROOT_HALF = 0.5**0.5


def measure(sae, source):
    """All scores in one dictionary."""
    metrics = GroundTruthEvaluation().measure(sae, source)["metrics"]
    flat = {k: v for k, v in metrics.items() if not isinstance(v, dict)}
    return flat | metrics["reconstruction_quality"] | metrics["sparsity"] | metrics["misc_metrics"]


def holds(found, **wanted):
    """Compare some scores."""
    some = {name: found[name] for name in wanted}
    assert some == pytest.approx(wanted, abs=2e-3, nan_ok=True)


FAMILY = [[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1]]  # 1 is a child of 0
KIN = {"parents": {1: 0}, "true": [(0, 2)], "spurious": [(2, 0)]}


def test_a_perfect_dictionary_in_any_order():
    for order in ([0, 1, 2], [2, 0, 1]):
        found = measure(dictionary(torch.eye(3)[order]), ByHand(FAMILY, **KIN))
        holds(found, mcc=1, uniqueness=1, f1=1, precision=1, recall=1)
        holds(found, latent_f1=1, latent_precision=1, latent_recall=1, splitting=0)
        holds(found, absorption=0, fractional_absorption=0)
        holds(found, hedging=0, leakage=0, leakage_true=0, joint_overlap=0)
        holds(found, explained_variance=1, l0=6 / 4, dead_share=0)
        assert "absorption_depth_0" not in found
        assert math.isnan(found["joint_overlap_ap"]) and math.isnan(found["cosine_ap"])


def test_two_features_merged_into_one_latent():
    """It writes (.8, .6, 0), and is active wherever one of the two fires."""
    rows = [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]]
    source = ByHand(rows, true=[(0, 1)], spurious=[(0, 1), (1, 0)])
    found = measure(dictionary([[0.8, 0.6, 0], [0, 0, 1]]), source)
    holds(found, mcc=(0.8 + 1) / 2, uniqueness=1)
    # Feature 0 fires in 2 of the 3 rows; feature 1 has no latent and counts 0.
    holds(found, f1=(0.8 + 0 + 1) / 3, precision=(2 / 3 + 0 + 1) / 3, recall=2 / 3)
    holds(found, latent_f1=0.9, latent_precision=(2 / 3 + 1) / 2, latent_recall=1)
    # Only from the feature that has a latent: .6 of the other is in it.
    holds(found, hedging=0.6, leakage=0.6, leakage_true=0.6, l0=1)


def test_the_true_cosine_is_no_leakage():
    """Directions (1, 0) and (.6, .8); the latent of the first is at (.8, .6) to the axes."""
    source = ByHand([[1, 0], [0, 1]], spurious=[(0, 1)], directions=[[1.0, 0], [0.6, 0.8]])
    holds(measure(dictionary([[1.0, 0], [0.6, 0.8]]), source), leakage=0)
    u_with_second = 0.8 * 0.6 + 0.6 * 0.8
    tilted = measure(dictionary([[-0.8, -0.6], [0.0, 1]]), source)  # whatever its sign
    holds(tilted, leakage=u_with_second - 0.6, leakage_true=math.nan, hedging=math.nan)


def test_one_feature_split_into_two_latents():
    """Both write feature 0, one where it comes with feature 1 and one where it does with 2."""
    rows = [[1, 1, 0], [1, 0, 1], [1, 0, 1], [0, 1, 0], [0, 0, 1]]
    read = torch.tensor([[1.0, 1, 0], [1, 0, 1], [0, 1, 0], [0, 0, 1]]).T
    bias = torch.tensor([-1.5, -1.5, -0.5, -0.5])
    split = [[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    found = measure(dictionary(split, read, bias), ByHand(rows))
    holds(found, splitting=1 / 3, uniqueness=3 / 4, mcc=1)
    holds(found, latent_recall=(1 / 3 + 2 / 3 + 1 + 1) / 4, latent_precision=1)
    # Neither are parts two copies of one feature, nor a latent that mostly fires for another one.
    copies = measure(dictionary(split), ByHand(rows))
    holds(copies, splitting=0, uniqueness=3 / 4, latent_f1=1)
    read[:, 1] = torch.tensor([0.0, 0, 2])
    wrong = measure(dictionary(split, read, bias), ByHand([*rows, [0, 0, 1], [0, 0, 1]]))
    holds(wrong, splitting=0, latent_precision=(1 + 2 / 5 + 1 + 1) / 4)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_an_absorbed_parent(share):
    """The child's latent writes the child and a share of the parent, whose latent is silent."""
    read = torch.tensor([[1.0, -2, 0], [0, 1, 0], [0, 0, 1]]).T
    sae = dictionary([[1, 0, 0], [share, 1, 0], [0, 0, 1]], read)
    found = measure(sae, ByHand(FAMILY, **KIN))
    cosine = share / (1 + share**2) ** 0.5
    holds(found, absorption=1, fractional_absorption=share, recall=(1 / 3 + 1 + 1) / 3)
    # Of child and parent both ways, and of the true pair both ways: one of four has it.
    holds(found, hedging=cosine / 4)
    # The two are never active together, so the product finds nothing; the cosine does.
    holds(found, cosine_ap=1, joint_overlap_ap=1 / 3, joint_overlap=0)


def test_a_parent_that_is_absorbed_in_part():
    """Its latent has half of its value where the child fires, whose latent writes the rest."""
    read = torch.tensor([[1.0, -0.5, 0], [0, 1, 0], [0, 0, 1]]).T
    sae = dictionary([[1, 0, 0], [0.5, 1, 0], [0, 0, 1]], read)
    found = measure(sae, ByHand(FAMILY, **KIN))
    holds(found, absorption=0, fractional_absorption=0.5, explained_variance=1)


def test_what_the_child_has_of_its_parent_by_nature_is_not_absorbed():
    """The child's direction has a cosine of .6 with the parent's; its latent writes that alone."""
    directions = torch.tensor([[1.0, 0], [0.6, 0.8]])
    source = ByHand([[1, 0], [1, 1]], parents={1: 0}, directions=directions)
    read = torch.linalg.inv(directions)
    holds(measure(dictionary(directions, read), source), absorption=0, hedging=0)
    read[:, 0] -= 2 * read[:, 1]  # now the parent's latent is silent, and nobody stands in for it
    found = measure(dictionary(directions, read), source)
    holds(found, absorption=1, fractional_absorption=0)


def test_several_levels():
    """0 is the parent of 1 and that of 2; the latent of 1 is silent where that of 2 is active."""
    rows = [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]
    read = torch.tensor([[1.0, 0, 0], [0, 1, -2], [0, 0, 1]]).T
    found = measure(dictionary(torch.eye(3), read), ByHand(rows, parents={1: 0, 2: 1}))
    holds(found, absorption_depth_0=0, absorption_depth_1=1, absorption=0.5)


def test_a_parent_is_the_mean_of_its_rows_and_parents_count_alike():
    """Children 1 and 2 of 0, in 3 rows and 1; child 4 of 3. Only child 2 absorbs."""
    rows = [[1, 1, 0, 0, 0]] * 3 + [[1, 0, 1, 0, 0], [0, 0, 0, 1, 1]]
    read = torch.eye(5)
    read[2, 0] = -2
    source = ByHand(rows, parents={1: 0, 2: 0, 4: 3})
    holds(measure(dictionary(torch.eye(5), read), source), absorption=(1 / 4 + 0) / 2)


def test_overlap_of_latents_by_hand():
    """METHOD's dictionary: c01 = .5, c02 = .25 with cosines .6 and 0, so .5 · .36 / .75."""
    W_dec = torch.tensor([[1.0, 0], [0.6, 0.8], [0, 1]])
    active = torch.tensor([[1.0, 1, 0], [1, 1, 0], [1, 0, 1], [0, 1, 0]])
    source = ByHand(torch.eye(4), directions=torch.eye(4))
    sae = dictionary(torch.nn.functional.pad(W_dec, (0, 2)), active)
    found = measure(sae, source)
    holds(found, joint_overlap=0.5 * 0.36 / 0.75, mean_abs_phi=math.nan)  # too few rows


def test_phi_of_latents_by_hand():
    """400 rows: A in 200, B in the same 200, C in 100 of them and 100 others: φ = 1, 0, 0.

    A latent that is active in all rows goes with nothing, and one that never is as well.
    """
    kinds = torch.tensor([[1.0, 1, 1, 1, 0], [1, 1, 0, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0]])
    source = ByHand(kinds.repeat(100, 1))
    holds(measure(dictionary(torch.eye(5)), source), mean_abs_phi=1 / 3)


def test_of_many_latents_in_a_row_the_largest_are_paired():
    sae = dictionary([[1.0, 0, 0], [0, 0.6, 0.8], [0, 0.8, 0.6]], torch.eye(3))
    source = ByHand([[1, 2, 3]], directions=torch.eye(3))
    holds(measure(sae, source), joint_overlap=0.96**2 / 3)
    sae.tracked_latents = 2
    holds(measure(sae, source), joint_overlap=0.96**2)


def test_a_dictionary_at_random():
    generator = torch.Generator().manual_seed(0)
    n, wide = 20, 4000
    directions = torch.randn(n, wide, generator=generator)
    directions /= directions.norm(dim=-1, keepdim=True)
    values = (torch.rand(500, n, generator=generator) < 0.2).float()
    pairs = [(a, a + 1) for a in range(0, n, 2)]
    source = ByHand(values, true=pairs, spurious=pairs, directions=directions)
    sae = dictionary(torch.randn(n, wide, generator=generator) / wide**0.5)
    found = measure(sae, source)
    assert max(found["mcc"], found["joint_overlap"]) < 0.1
    assert max(abs(found[name]) for name in ("hedging", "leakage", "leakage_true")) < 0.02
    assert found["latent_precision"] == pytest.approx(0.2, abs=0.05)


def test_nothing_is_active():
    sae = dictionary(torch.eye(3), b_enc=torch.full((3,), -9.0))
    found = measure(sae, ByHand(FAMILY, **KIN))
    holds(found, f1=0, latent_f1=0, absorption=0, fractional_absorption=0, joint_overlap=0)
    holds(found, dead_share=1, splitting=0, mean_abs_phi=math.nan)
