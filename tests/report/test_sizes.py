"""Curves of quality against L0, and where they bend."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_sae.report.sizes import NoElbow, curves, elbow, elbow_lines, is_about_sizes
from temporal_sae.report.sweep_facts import read_jobs
from tests.report.sweeps import results_of, write_job

XS = st.lists(st.integers(1, 2000), min_size=3, max_size=9, unique=True).map(sorted)


def test_an_elbow_by_hand():
    """Scaled, x is 0, 1/7, 3/7, 1 and y is 0, 1/2, 5/6, 1: above the chord 0, 5/14, 17/42, 0."""
    assert elbow([4, 8, 16, 32], [0.2, 0.5, 0.7, 0.8]) == 2
    assert elbow([4, 8, 16, 32], [0.2, 0.6, 0.7, 0.8]) == 1


@pytest.mark.parametrize(
    ("xs", "ys", "why"),
    [
        ([4, 8], [0.1, 0.2], "2 points, and it takes 3"),
        ([4, 4, 8], [0.1, 0.1, 0.2], "2 points, and it takes 3"),
        ([4, 8, 16], [0.1, 0.3, 0.2], "it falls between L0 8 and 16"),
        ([4, 8, 16], [0.3, 0.3, 0.3], "it is flat"),
        ([4, 8, 12], [0.1, 0.2, 0.3], "it does not flatten"),
        ([4, 8, 12], [0.1, 0.1, 0.3], "it does not flatten"),
    ],
)
def test_why_a_curve_has_no_elbow(xs, ys, why):
    with pytest.raises(NoElbow, match=f"^{why}$"):
        elbow(xs, ys)


@given(XS, st.floats(-3, 3), st.floats(0.01, 50), st.floats(1, 1000))
def test_the_scale_of_the_axes_does_not_matter(xs, low, height, width):
    ys = [math.sqrt(x) for x in xs]
    try:
        place = elbow(xs, ys)
    except NoElbow:
        return
    assert 0 < place < len(xs) - 1
    chord = [(x - xs[0]) / (xs[-1] - xs[0]) for x in xs]
    above = [(y - ys[0]) / (ys[-1] - ys[0]) - c for y, c in zip(ys, chord, strict=True)]
    again = elbow([width * x for x in xs], [low + height * y for y in ys])
    assert above[again] == pytest.approx(max(above))


@given(XS, st.integers(1, 7))
def test_a_line_that_turns_level_bends_where_it_turns(xs, n):
    turn = xs[min(n, len(xs) - 2)]
    try:
        assert xs[elbow(xs, [min(x, turn) for x in xs])] == turn
    except NoElbow as error:
        assert "flatten" in str(error)  # too little of it is level
        assert (xs[-1] - turn) / (xs[-1] - xs[0]) < 0.02


def job_of(folder, number, overrides, d_sae, **core):
    sizes = {"training results": {"config": {"dict_size": d_sae}}}
    return write_job(folder, number, overrides, results_of(**core) | sizes)


@pytest.fixture
def jobs(tmp_path):
    """Two sizes with three L0 each, the larger one with two seeds; it alone has a CE score."""
    made = []
    for k, value in ((4, 0.2), (8, 0.5), (16, 0.6)):
        words = f"sae.k={k} sae.d_sae"
        made.append(job_of(tmp_path, len(made), f"{words}=64", 64, l0=k, explained_variance=value))
        for seed, shift in ((1, -0.1), (2, 0.1)):
            scores = {"explained_variance": value + shift, "ce_loss_score": 0.0}
            overrides = f"{words}=128 seed={seed}"
            made.append(job_of(tmp_path, len(made), overrides, 128, l0=k, **scores))
    return read_jobs(made[::-1])


def test_a_curve_is_a_size_in_the_order_of_l0_with_its_seeds_averaged(jobs):
    found = curves(jobs)
    assert found.keys() == {"d_sae=64", "d_sae=128"}
    assert [point.l0 for point in found["d_sae=64"]] == [4, 8, 16]
    assert [point.scores for point in found["d_sae=64"]] == [(0.2, None), (0.5, None), (0.6, None)]
    assert [point.scores[0] for point in found["d_sae=128"]] == pytest.approx([0.2, 0.5, 0.6])
    assert elbow_lines("d_sae=128", found["d_sae=128"]) == [
        "d_sae=128: explained variance has its elbow at L0 8 (between 4 and 16 of 3 points)",
        "d_sae=128: CE score has no elbow: it is flat",
    ]
    assert len(elbow_lines("d_sae=64", found["d_sae=64"])) == 1


def test_another_penalty_makes_another_curve(tmp_path):
    made = [
        job_of(tmp_path, 2 * n + w, f"sae.k={2**n} loss.w={w}", 64, l0=2**n, explained_variance=n)
        for n in range(3)
        for w in (0, 1)
    ]
    assert list(curves(read_jobs(made))) == ["d_sae=64 loss.w=0", "d_sae=64 loss.w=1"]


@pytest.mark.parametrize(
    ("overrides", "values", "told"),
    [
        (["sae.k=1", "sae.k=2", "sae.k=3"], [1, 2, 3], True),
        (["sae.d_sae=1", "sae.d_sae=2", "sae.d_sae=3"], [1, 2, 3], True),
        (["sae.k=1", "sae.k=2", "sae.k=3"], [1, 2, 2], False),
        (["seed=1", "seed=2", "seed=3"], [1, 2, 3], False),
    ],
)
def test_sizes_are_told_of_where_they_vary_at_three_values_of_l0(tmp_path, overrides, values, told):
    made = [job_of(tmp_path, n, overrides[n], 8, l0=values[n]) for n in range(3)]
    assert is_about_sizes(read_jobs(made)) is told
