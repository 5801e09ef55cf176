"""Measures of how stable co-activation is while an SAE trains.

One look reads the last closed window and every running average. Looks are as rare as it takes for
them to cost less than a hundredth of the training; that is settled by counts, never by a clock, so
two runs of one config look at the same windows. Instability is judged only on pairs with an
expected count of at least 10 a window: below that, |c - c̄| is shot noise (METHOD: a stationary
pair with mean count 1 shows s = 0.52).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.machine import Planned
from temporal_sae.tracker.reading import KEPT_LATENTS
from temporal_sae.tracker.statistics import instability

MIN_COUNT = 10
SURPRISING_Z = 3.0
DRIFT_ROWS = 2048
DRIFT_COPIES = 4  # of these rows: kept, present, and what their cosines take
FLOAT = 4
# Costs in averages read one after the other, about a nanosecond each on one core. A GPU reads and
# multiplies faster by the same factor.
COST_OF_A_WINDOWS_PAIR = 10  # to count it
COST_OF_A_FREQUENT_PAIR = 200  # to look up its rate and its average
COST_OF_A_TOKEN = 12_000  # to train on it, beside the products with the weights
WEIGHTS_MULTIPLIED = 24  # F · d_in of a token, in the time that an average takes
TRAINING_BETWEEN_LOOKS = 200  # times a look's own cost; by this estimate, which may be out by two

Pairs = tuple[Int[Tensor, " n"], Int[Tensor, " n"]]


class PairRates(Protocol):
    """The side of a tracker that the monitor sees."""

    n_latents: int
    windows_closed: int

    @property
    def last_window(self) -> Tensor | None: ...
    def count_histogram(self) -> Tensor: ...
    def pairs(self, min_count: float) -> tuple[Tensor, Tensor]: ...
    def rate(self, i: Tensor, j: Tensor) -> Tensor: ...
    def before(self, i: Tensor, j: Tensor) -> Tensor: ...


class StabilityMonitor:
    """Watches a tracker and a decoder at the logged steps.

    The decoder's drift is measured at each of them, the pairs once enough has been trained since
    the last look.

    Args:
        n_top: how many of the most frequent pairs are followed.
    """

    def __init__(self, n_top: int = 200) -> None:
        self.n_top = n_top
        self._top: list[Int[Tensor, " n_top"]] = []
        self._watched: Int[Tensor, " n_top"] | None = None
        self._watched_rates: list[Float[Tensor, " n_top"]] = []
        self._window_at: list[int] = []
        self._window_sizes: list[int] = []
        self._next_look = 1
        self._decoder: Tensor | None = None
        self._drift: float | None = None

    @torch.no_grad()
    def observe(self, tracker: Any, W_dec: Float[Tensor, "d_sae d_in"]) -> dict[str, float]:
        """Look at the present state; return the numbers worth logging."""
        measured: dict[str, float] = {}
        rows = drift_rows(W_dec.detach())
        if self._decoder is not None:
            before = self._decoder.to(W_dec.device)  # a checkpoint brings it back on the CPU
            cosine = torch.nn.functional.cosine_similarity(rows, before, dim=-1)
            self._drift = measured["decoder_drift"] = float(cosine.mean())
        self._decoder = rows.clone()
        if tracker.windows_closed >= self._next_look:
            frequent = tracker.pairs(MIN_COUNT)
            self._observe_window(tracker, frequent)
            measured |= pair_stability(tracker, frequent) | of_totals(tracker)
            n_windows = windows_to_wait(tracker.last_window, len(frequent[0]), *W_dec.shape)
            self._next_look = tracker.windows_closed + n_windows
        return measured

    def _observe_window(self, tracker: PairRates, frequent: Pairs) -> None:
        top = top_pairs(tracker, self.n_top, frequent)
        if self._watched is None:
            self._watched = top
        n = tracker.n_latents
        known = self._watched.clamp(min=0).to(top.device)
        self._watched_rates.append(tracker.rate(known // n, known % n).cpu())
        self._top.append(top.cpu())
        self._window_at.append(tracker.windows_closed)
        assert tracker.last_window is not None
        self._window_sizes.append(tracker.last_window.shape[0])

    def planned_bytes(self, n_latents: int, d_in: int) -> dict[str, Planned]:
        """Return the memory of the decoder rows whose drift is followed."""
        n_rows = -(-n_latents // drift_stride(n_latents))
        return {"decoder drift": Planned(DRIFT_COPIES * n_rows * d_in * FLOAT, ("sae.d_sae",))}

    def summary(self, tracker: Any) -> dict[str, Any]:
        """Return the measures of a whole run for results.json; empty before the first window."""
        if not self._top:
            return {}
        overlaps = self._overlaps()
        return {
            **pair_stability(tracker),
            **of_totals(tracker),
            **co_activation(tracker, self.n_top),
            "fano_factor_median": self._fano(),
            "top_pairs_overlap_by_windows": overlaps,
            "top_pairs_half_life_windows": half_life(overlaps),
            "windows_observed": len(self._top),
            "decoder_drift": self._drift,
        }

    def _fano(self) -> float:
        """Median over the watched pairs of W Var(c) / mean(c); 1 for a Poisson count."""
        assert self._watched is not None
        rates = torch.stack(self._watched_rates)[:, self._watched.cpu() >= 0]
        if rates.shape[0] < 2 or rates.shape[1] == 0:
            return float("nan")
        size = sum(self._window_sizes) / len(self._window_sizes)
        return float((size * rates.var(0) / rates.mean(0).clamp(min=1e-12)).median())

    def _overlaps(self) -> dict[str, float]:
        """Mean Jaccard overlap of the top pairs, by lag in windows (lags double)."""
        overlaps, lag = {}, 1
        while lag < len(self._top):
            pairs = list(zip(self._top[:-lag], self._top[lag:], strict=True))
            distance = (self._window_at[-1] - self._window_at[0]) / (len(self._window_at) - 1) * lag
            overlaps[f"{distance:.0f}"] = sum(jaccard(a, b) for a, b in pairs) / len(pairs)
            lag *= 2
        return overlaps

    def state_dict(self) -> dict[str, Any]:
        """Everything observed so far."""
        state: dict[str, Any] = {"window_at": self._window_at, "window_sizes": self._window_sizes}
        state["drift"], state["next_look"] = self._drift, self._next_look
        if self._decoder is not None:
            state["decoder"] = self._decoder
        if self._watched is not None:
            state["watched"] = self._watched
            state["top"] = torch.stack(self._top)
            state["watched_rates"] = torch.stack(self._watched_rates)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self._window_at = list(state.get("window_at", []))
        self._window_sizes = list(state.get("window_sizes", []))
        # Older checkpoints hold the whole decoder, and looked at every window that was new.
        decoder = state.get("decoder")
        self._decoder = None if decoder is None else drift_rows(decoder).clone()
        seen = self._window_at[-1] if self._window_at else 0
        self._drift, self._next_look = state.get("drift"), state.get("next_look", seen + 1)
        self._watched = state.get("watched")
        self._top = list(state["top"]) if "top" in state else []
        self._watched_rates = list(state["watched_rates"]) if "watched_rates" in state else []


def drift_stride(n_latents: int) -> int:
    """Return the distance of the rows that stand for the decoder; 1 up to 2048 latents."""
    return -(-n_latents // DRIFT_ROWS)


def drift_rows(W_dec: Float[Tensor, "F d_in"]) -> Float[Tensor, "rows d_in"]:
    """Return the rows that stand for the decoder: evenly spaced, since latents may be in groups."""
    return W_dec[:: drift_stride(W_dec.shape[0])]


def windows_to_wait(window: Int[Tensor, "W K"], n_frequent: int, n_latents: int, d_in: int) -> int:
    """Return the windows until the next look, at least 1.

    Args:
        window: the last one.
        n_frequent: pairs with at least 10 counts in it, or expected.
        n_latents: F; all its pairs have averages.
        d_in: of the decoder.
    """
    n_tokens, width = window.shape
    of_window = COST_OF_A_WINDOWS_PAIR * n_tokens * width * (width - 1) // 2
    look = n_latents * (n_latents - 1) // 2 + of_window + COST_OF_A_FREQUENT_PAIR * n_frequent
    training = n_tokens * (COST_OF_A_TOKEN + n_latents * d_in // WEIGHTS_MULTIPLIED)
    return max(1, -(-TRAINING_BETWEEN_LOOKS * look // training))


def of_totals(tracker: Any) -> dict[str, float]:
    """Return what the totals of a tracker tell of time; nothing where it keeps none.

    `bursty_share` is Σ bursty / Σ c_long over pairs: about √(2 / windows) where counts are
    Poisson's. It is measured up to 1024 latents, where a sum over all pairs is cheap.
    `latent_burstiness_median` is D_ii of the latents with at least 10 counts in a window.
    """
    totals = tracker.totals
    if totals is None or totals.n_windows < 2:
        return {}
    measured = {}
    if tracker.n_latents <= KEPT_LATENTS and bool(totals.long_rate_sum() > 0):
        measured["bursty_share"] = float(tracker.weight_share("bursty"))
    frequent = totals.n >= MIN_COUNT * totals.n_windows
    if totals.own_squares is not None and bool(frequent.any()):
        measured["latent_burstiness_median"] = float(totals.burstiness()[frequent].median())
    return measured


def pair_stability(tracker: PairRates, frequent: Pairs | None = None) -> dict[str, float]:
    """Return 1 - s and z = (c - c̄)/√(max(c, c̄)/W) over pairs with at least 10 expected counts.

    Args:
        tracker: has closed a window.
        frequent: these pairs, if they are known: `tracker.pairs(MIN_COUNT)`.
    """
    i, j = frequent or tracker.pairs(MIN_COUNT)
    if not len(i) or tracker.last_window is None:
        return {}
    rate, before = tracker.rate(i, j), tracker.before(i, j)
    z = (rate - before) / (torch.maximum(rate, before) / tracker.last_window.shape[0]).sqrt()
    return {
        "frequent_pairs": float(len(i)),
        "pair_stability": float(1 - instability(rate, before).mean()),
        "pair_z_rms": float(z.square().mean().sqrt()),
        "pairs_beyond_3_sigma": float((z.abs() > SURPRISING_Z).float().mean()),
    }


def co_activation(tracker: PairRates, n_top: int) -> dict[str, float]:
    """Entropy (nats) of the distribution of co-activation over pairs; φ of the top pairs.

    The entropy comes from how many pairs have each count, so no list of all pairs is made.
    """
    histogram = tracker.count_histogram().double().cpu()
    counts = torch.arange(len(histogram)).double()
    share = counts / (histogram * counts).sum().clamp(min=1)
    top = top_pairs(tracker, n_top)
    top = top[top >= 0]
    i, j = top // tracker.n_latents, top % tracker.n_latents
    both, p, q = tracker.rate(i, j), tracker.rate(i, i), tracker.rate(j, j)
    spread = (p * (1 - p) * q * (1 - q)).sqrt()
    phi = torch.where(spread > 0, (both - p * q) / spread.clamp(min=1e-12), 0.0)
    return {
        "co_activation_entropy": -float((histogram * share.xlogy(share)).sum()),
        "pairs_in_last_window": float(histogram.sum()),
        "phi_mean_of_top_pairs": float(phi.mean()) if len(phi) else 0.0,
    }


def top_pairs(tracker: PairRates, n: int, frequent: Pairs | None = None) -> Int[Tensor, " n"]:
    """Return the n pairs i < j with the highest rates as i F + j; -1 where there are fewer.

    Of pairs with the same rate the first come first.

    Args:
        tracker: has closed a window.
        n: how many.
        frequent: `tracker.pairs(MIN_COUNT)`, if known: the n are among them if that many are.
    """
    at_least = tracker.count_histogram().flip(0).cumsum(0).flip(0).cpu()
    enough = (at_least[1:] >= n).nonzero()
    least = int(enough[-1]) + 1 if len(enough) else 1
    i, j = frequent if frequent and least >= MIN_COUNT else tracker.pairs(least)
    ids, rate = i * tracker.n_latents + j, tracker.rate(i, j)
    highest, order = rate.sort(descending=True, stable=True)
    best = order[highest > 0][:n]
    return torch.nn.functional.pad(ids[best], (0, n - len(best)), value=-1)


def jaccard(a: Tensor, b: Tensor) -> float:
    """|a ∩ b| / |a ∪ b| of two sets of pair ids; -1 is no member."""
    first, second = set(a.tolist()) - {-1}, set(b.tolist()) - {-1}
    return len(first & second) / max(1, len(first | second))


def half_life(overlaps: dict[str, float]) -> float | None:
    """Return the smallest lag at which the overlap is at most half of the first, else None."""
    values = list(overlaps.values())
    for lag, value in overlaps.items():
        if value <= values[0] / 2:
            return float(lag)
    return None
