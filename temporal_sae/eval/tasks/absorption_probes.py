"""The probes of absorption: on activations, and on a few latents.

Definitions as in SAEBench 0.6.0 (evals/absorption). All probes are one against the rest, balanced,
and minimise the same objectives as there. SAEBench's optimiser stops after 50 epochs, which with a
small vocabulary are 50 steps, far from the minimum: the L1 probes' weights are then all as long as
the steps allow, and their order says little. Here scikit-learn finds the minimum.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from temporal_sae.eval.tasks.probes import classifier

WIDE = 512  # above this a Newton step, with its width² numbers, no longer pays


class LinearProbes(NamedTuple):
    """One linear probe a concept: weights [C, D], biases [C]; positive scores say yes."""

    weights: Float[Tensor, "concepts width"]
    biases: Float[Tensor, " concepts"]

    def scores(self, x: Float[Tensor, "words width"]) -> Float[Tensor, "words concepts"]:
        """Return the log-odds of each concept."""
        return x @ self.weights.T + self.biases


class MainLatents(NamedTuple):
    """The main latents of a concept, and the F1 of the k-sparse probes that were tried."""

    latents: list[int]
    f1_by_k: list[float]


def true_probes(
    x: Float[Tensor, "words width"], labels: Bool[Tensor, "words concepts"], weight_decay: float
) -> LinearProbes:
    """Ground-truth probes: balanced logistic regression with an L2 term on activations.

    Minimises mean_i u_i BCE_i + weight_decay/2 |w|², u_i = n_negative/n_positive for positives and
    1 for negatives. In scikit-learn's terms, whose balanced weights are n/(2 n_class), that is
    C = 2 n_negative / (n² weight_decay).
    """
    scale = float(x.double().square().mean().sqrt())  # a solver is quicker with values around one
    features = x.double().numpy() / scale
    n, width = features.shape
    solver = "newton-cholesky" if width <= WIDE else "lbfgs"
    weights, biases = [], []
    for positive in labels.numpy().T:
        strength = scale**2 * 2 * int((~positive).sum()) / (n**2 * weight_decay)
        probe = classifier(C=strength, class_weight="balanced", solver=solver, max_iter=1000).fit(
            features, positive
        )
        weights.append(probe.coef_[0] / scale)
        biases.append(probe.intercept_[0])
    return LinearProbes(
        torch.tensor(np.array(weights), dtype=x.dtype),
        torch.tensor(np.array(biases), dtype=x.dtype),
    )


def sparse_weights(
    acts: Float[Tensor, "words d_sae"], labels: Bool[Tensor, "words concepts"], l1_decay: float
) -> Float[Tensor, "concepts d_sae"]:
    """Weights of L1-regularised probes on latents; the largest say what k-sparse probes use.

    Minimises mean_i u_i BCE_i + l1_decay |w|₁ with u as in `true_probes`; in scikit-learn's terms
    C = 2 n_negative / (n² l1_decay). The latents' few values are walked as a sparse matrix.
    """
    from scipy.sparse import csr_matrix  # slow to import

    features = csr_matrix(acts.numpy()).astype(np.float64)
    n = len(acts)
    weights = []
    for positive in labels.numpy().T:
        probe = classifier(
            l1_ratio=1.0,
            C=2 * int((~positive).sum()) / (n**2 * l1_decay),
            class_weight="balanced",
            solver="liblinear",
            intercept_scaling=100,  # the solver penalises the offset too, now a hundredth as much
            max_iter=1000,
            random_state=0,  # the order in which it visits latents
        ).fit(features, positive)
        weights.append(probe.coef_[0])
    return torch.tensor(np.array(weights), dtype=torch.float32)


def main_latents(
    weights: Float[Tensor, "concepts d_sae"],
    train: tuple[Float[Tensor, "words d_sae"], Bool[Tensor, "words concepts"]],
    test: tuple[Float[Tensor, "words d_sae"], Bool[Tensor, "words concepts"]],
    max_k: int,
    f1_jump: float,
) -> list[MainLatents]:
    """Return the latents that stand for each concept: the first, and those it has been split into.

    The k-sparse probe is a balanced logistic regression on the k latents of largest (signed)
    weight. The first latent is a main one, and so is each further one for as long as the probe with
    it has an F1 on test words that is more than `f1_jump` above that of the probe without.

    Args:
        weights: of `sparse_weights`.
        train: latents and labels that the probes learn.
        test: latents and labels for the F1.
        max_k: main latents at most.
        f1_jump: 0.03 in SAEBench.
    """
    candidates = weights.topk(max_k).indices
    found = []
    for c, chosen in enumerate(candidates):
        learned, tested = train[0][:, chosen].float(), test[0][:, chosen].float()
        f1: list[float] = []
        for k in range(1, max_k + 1):
            scores = sparse_probe_scores(learned[:, :k], train[1][:, c], tested[:, :k])
            f1.append(float(f1_scores(scores > 0, test[1][:, c])))
            if k > 1 and f1[-1] <= f1[-2] + f1_jump:
                break
            n_main = k
        found.append(MainLatents(chosen[:n_main].tolist(), f1))
    return found


def sparse_probe_scores(
    learned: Float[Tensor, "words k"], labels: Bool[Tensor, " words"], tested: Float[Tensor, "n k"]
) -> Float[Tensor, " n"]:
    """Log-odds of the test words by a balanced logistic regression on k latents."""
    probe = classifier(max_iter=500, class_weight="balanced")
    probe.fit(learned.numpy(), labels.numpy())
    return tested @ torch.tensor(probe.coef_[0]).float() + float(probe.intercept_[0])


def f1_scores(
    predicted: Bool[Tensor, "words ..."], actual: Bool[Tensor, "words ..."]
) -> NDArray[np.float64]:
    """F1 of each column, 2 TP / (predicted + actual); 0 where nothing is predicted nor actual."""
    hits = (predicted & actual).sum(0).double()
    total = predicted.sum(0).double() + actual.expand_as(predicted).sum(0).double()
    f1: NDArray[np.float64] = torch.where(total > 0, 2 * hits / total.clamp(min=1), 0.0).numpy()
    return f1
