"""The operations of `plain_step` in numba, on torch's threads: tensors in, tensors out."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels import selection_loops, spare, step_loops
from temporal_sae.kernels.plain_step import EPSILON, AdamStep, ByLatent
from temporal_sae.kernels.threads import on_threads

__all__ = ["AdamStep", "ByLatent"]

ROWS_PER_SAMPLE = 16
CAUTION = 0.8


def select_topk(pre_acts: Float[Tensor, "B F"], k: int) -> tuple[Tensor, Tensor]:
    """See `plain_step.select_topk`."""
    values = torch.empty(pre_acts.shape[0], k)
    indices = torch.empty(pre_acts.shape[0], k, dtype=torch.int64)
    arrays = (_array(pre_acts), k, values.numpy(), indices.numpy())
    on_threads(selection_loops.select_topk, *arrays)
    return values, indices


def kth_largest(pre_acts: Float[Tensor, "B F"], n: int) -> Float[Tensor, ""]:
    """See `plain_step.kth_largest`.

    Some of the rows tell above what it will be found; if too little is there all is looked at.
    """
    array = _array(pre_acts)
    some = array[::ROWS_PER_SAMPLE]
    guess = CAUTION * _as_value(_kth_key(some, 0.0, max(1, n * len(some) // len(array))))
    least = guess if math.isfinite(guess) else 0.0
    key = _kth_key(array, least, n)
    if key < 0 < least:
        key = _kth_key(array, 0.0, n)
    return torch.tensor(_as_value(key))


def _as_value(key: int) -> float:
    return float(np.array([max(key, 0)], np.int32).view(np.float32)[0])


def _kth_key(array: np.ndarray, least: float, n: int) -> int:
    """The n-th largest key of the entries above `least`, -1 if there are not that many."""
    prefix, above, left = 0, 31, n
    for shift in selection_loops.SHIFTS:
        counts = np.zeros((torch.get_num_threads(), selection_loops.BUCKETS), np.int64)
        searched = (array, np.float32(least), prefix, above, shift)
        on_threads(selection_loops.count_keys, *searched, counts)
        from_the_top = counts.sum(0)[::-1].cumsum()
        place = int(np.searchsorted(from_the_top, left))
        if place == selection_loops.BUCKETS:
            return -1
        left -= int(from_the_top[place - 1]) if place else 0
        bucket = selection_loops.BUCKETS - 1 - place
        prefix = prefix << (above - shift) | bucket & ((1 << (above - shift)) - 1)
        above = shift
    return prefix


def list_above(
    pre_acts: Float[Tensor, "B F"], thresholds: Float[Tensor, " F"]
) -> Int[Tensor, "B K"]:
    """See `plain_step.list_above`."""
    array, least = _array(pre_acts), _array(thresholds)
    sizes = np.empty(len(array), np.int64)
    on_threads(selection_loops.count_above, array, least, sizes)
    indices = torch.full((len(array), max(1, sizes.max(initial=0))), -1, dtype=torch.int64)
    on_threads(selection_loops.list_above, array, least, indices.numpy())
    return indices


def list_by_latent(indices: Int[Tensor, "B K"], d_sae: int) -> ByLatent:
    """See `plain_step.list_by_latent`."""
    starts = torch.zeros(d_sae + 1, dtype=torch.int64)
    slots = torch.empty(indices.numel(), dtype=torch.int32)
    step_loops.list_by_latent(_array(indices), starts.numpy(), slots.numpy())
    return ByLatent(starts, slots)


def decode_rows(
    values: Float[Tensor, "B K"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B d"]:
    """See `plain_step.decode_rows`."""
    starts, columns, filled = _by_token(indices)
    kept = values.flatten() if filled is None else values.flatten()[filled]
    return _gather_sum(starts, columns, kept, W)


def dot_rows(
    G: Float[Tensor, "B d"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B K"]:
    """See `plain_step.dot_rows`."""
    starts, columns, filled = _by_token(indices)
    dots = torch.zeros(len(columns))
    for lo, hi, block in _blocks(_array(W), len(columns)):
        gathered = (starts, columns, _array(G), block, lo, hi)
        on_threads(step_loops.gather_dot, *gathered, dots.numpy())
    if filled is None:
        return dots.view(indices.shape)
    out = torch.zeros(indices.numel())
    out[filled] = dots
    return out.view(indices.shape)


def sum_by_latent(
    lists: ByLatent, values: Float[Tensor, "B K"], X: Float[Tensor, "B d"]
) -> Float[Tensor, "F d"]:
    """See `plain_step.sum_by_latent`."""
    slots = lists.slots[: int(lists.starts[-1])]
    tokens = (slots // max(1, values.shape[1])).to(torch.int32)
    return _gather_sum(lists.starts.numpy(), tokens.numpy(), values.flatten()[slots.long()], X)


def squared_norm(
    weights: Float[Tensor, "rows n"], gradient: Float[Tensor, "rows n"], unit_rows: bool
) -> Float[Tensor, ""]:
    """See `plain_step.squared_norm`."""
    sums = np.empty(len(weights))
    on_threads(step_loops.squared_norms, _array(weights), _array(gradient), unit_rows, sums)
    return torch.tensor(sums.sum()).clamp_(min=0)


def adam_(
    weights: Float[Tensor, "rows n"],
    gradient: Float[Tensor, "rows n"],
    mean: Float[Tensor, "rows n"],
    square: Float[Tensor, "rows n"],
    step: AdamStep,
    clip: Float[Tensor, ""],
    unit_rows: bool,
) -> None:
    """See `plain_step.adam_`."""
    if not bool(clip.isfinite()):
        return
    numbers = (
        float(clip),
        step.lr / step.correction1,
        1 - step.beta1,
        step.beta2,
        1 - step.beta2,
        step.eps,
        step.correction2**0.5,
        EPSILON,
    )
    arrays = (_array(t) for t in (weights, gradient, mean, square))
    on_threads(step_loops.adam, *arrays, np.array(numbers, np.float32), unit_rows)


def _gather_sum(starts: np.ndarray, columns: np.ndarray, values: Tensor, matrix: Tensor) -> Tensor:
    out = spare.empty(len(starts) - 1, matrix.shape[1])
    for lo, hi, block in _blocks(_array(matrix), len(columns)):
        gathered = (starts, columns, _array(values), block, lo, hi)
        on_threads(step_loops.gather_sum, *gathered, out.numpy())
    return out


def _blocks(matrix: np.ndarray, n_gathers: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Each block of columns: from where, to where, and what is in it until the next one comes."""
    n, d = matrix.shape
    width = step_loops.block_width(n, d, n_gathers)
    if d <= width:
        yield 0, d, matrix
        return
    block = np.empty((n, width), matrix.dtype)
    for lo in range(0, d, width):
        hi = min(lo + width, d)
        on_threads(step_loops.copy_columns, matrix, lo, hi, block)
        yield lo, hi, block


def _by_token(indices: Tensor) -> tuple[np.ndarray, np.ndarray, Tensor | None]:
    """Starts and latents of the filled slots, and which slots those are unless it is all."""
    n_tokens, width = indices.shape
    filled = indices >= 0
    columns = indices.to(torch.int32).flatten()
    if bool(filled.all()):
        return np.arange(n_tokens + 1) * width, columns.numpy(), None
    ends = filled.sum(-1).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends])
    filled = filled.flatten()
    return starts.numpy(), columns[filled].numpy(), filled


def _array(tensor: Tensor) -> np.ndarray:
    """float32 whatever the precision of the numbers; integers as they are."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous().numpy()
