"""Compiled loops over the firings of one latent after the other: numbers, examples, contexts."""

from __future__ import annotations

import numpy as np

from temporal_sae.kernels.threads import compiled

# The finaliser of splitmix64 (Steele, Lea and Flood 2014).
_STEP, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@compiled
def _draw(a, b):
    """Return a number that is as good as random, always the same for two numbers."""
    x = (np.uint64(a) << np.uint64(32)) ^ np.uint64(b)
    x = x + np.uint64(_STEP)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX_2)
    return x ^ (x >> np.uint64(31))


@compiled
def _bin(value, largest, n):
    """Return the place of a value among n equal intervals of (0, largest]."""
    return min(n - 1, max(0, int(np.ceil(value / largest * n)) - 1))


@compiled
def summarise(part, parts, postings, values, ids, buckets, window_size, n_ids, found):
    """Sum up what each latent of some postings does; see `summaries.Summaries` for what is found.

    Args:
        postings: (starts, tokens, places) of the latents.
        values: activations of all firings.
        ids: of all tokens; -1 is unknown.
        buckets: of each token's position; -1 is unknown.
        window_size: tokens of a window.
        n_ids: how many ids there are.
        found: arrays with a row for each latent, zeros.
    """
    starts, tokens, places = postings
    maxima, sums, squares, histogram, positions, top_ids, top_sums = found
    of_ids, touched = np.zeros(n_ids), np.empty(n_ids, np.int32)
    for r in range(part, starts.size - 1, parts):
        largest = np.float32(0.0)
        for q in range(starts[r], starts[r + 1]):
            largest = max(largest, values[places[q]])
        maxima[r] = largest
        total, n_touched, window, in_window = 0.0, 0, np.int64(-1), np.int64(0)
        for q in range(starts[r], starts[r + 1]):
            t, value = tokens[q], values[places[q]]
            total += value
            histogram[r, _bin(value, largest, histogram.shape[1])] += 1
            if t // window_size != window:
                window, in_window = np.int64(t // window_size), np.int64(0)
            squares[r] += 2 * in_window + 1
            in_window += 1
            if buckets[t] >= 0:
                positions[r, buckets[t]] += 1
            if ids[t] >= 0:
                if of_ids[ids[t]] == 0.0:
                    touched[n_touched] = ids[t]
                    n_touched += 1
                of_ids[ids[t]] += value
        sums[r] = total
        _largest_sums(of_ids, touched[:n_touched], top_ids[r], top_sums[r])


@compiled
def _largest_sums(of_ids, touched, top_ids, top_sums):
    """Insert the largest sums, falling, and set all sums back to 0; of equal ones the lower id."""
    last = top_ids.size - 1
    for name in touched:
        value = of_ids[name]
        of_ids[name] = 0.0
        if not _is_before(value, name, top_sums[last], top_ids[last]):
            continue
        p = last
        while p > 0 and _is_before(value, name, top_sums[p - 1], top_ids[p - 1]):
            top_sums[p], top_ids[p] = top_sums[p - 1], top_ids[p - 1]
            p -= 1
        top_sums[p], top_ids[p] = value, name


@compiled
def _is_before(value, name, other_value, other_name):
    return value > other_value or (value == other_value and other_name >= 0 and name < other_name)


@compiled
def pick_largest(part, parts, postings, values, block, apart, candidates, picked):
    """Pick the tokens with a latent's largest activations, none too near another.

    Only the largest of each block of tokens is a candidate, and of these only the largest `block`
    count of the row of `candidates`; so a latent that fires everywhere needs no sorting.

    Args:
        postings, values: as of `summarise`.
        block: tokens.
        apart: the least distance of two that are picked.
        candidates: room for the work, (float32, int64) arrays [parts, n].
        picked: receives the places in the postings, int64 [latents, n], -1 where there are fewer.
    """
    starts, tokens, places = postings
    scores, names = candidates[0][part], candidates[1][part]
    for r in range(part, starts.size - 1, parts):
        n, q = 0, starts[r]
        while q < starts[r + 1]:
            end, best = (tokens[q] // block + 1) * block, q
            while q < starts[r + 1] and tokens[q] < end:
                if values[places[q]] > values[places[best]]:
                    best = q
                q += 1
            n = _keep_largest(values[places[best]], best, scores, names, n)
        n_picked = 0
        for c in range(n):
            t, is_free = tokens[names[c]], True
            for p in range(n_picked):
                is_free &= abs(tokens[picked[r, p]] - t) >= apart
            if is_free and n_picked < picked.shape[1]:
                picked[r, n_picked] = names[c]
                n_picked += 1


@compiled
def _keep_largest(score, name, scores, names, n):
    """Insert into a list that falls, equal scores in their order; returns how many it has."""
    if n == scores.size and not score > scores[n - 1]:
        return n
    p = min(n, scores.size - 1)
    while p > 0 and score > scores[p - 1]:
        scores[p], names[p] = scores[p - 1], names[p - 1]
        p -= 1
    scores[p], names[p] = score, name
    return min(n + 1, scores.size)


@compiled
def sample_intervals(part, parts, postings, values, first, maxima, excluded, sampled):
    """Sample firings of each latent from equal intervals of its activations, at random.

    Args:
        postings, values: as of `summarise`.
        first: the first latent.
        maxima: the largest activation of each latent.
        excluded: places in the postings that are not to be sampled, [latents, m].
        sampled: receives places in the postings, int64 [latents, intervals, n], -1 where there are
            fewer. The first interval is that of the largest activations.
    """
    starts, tokens, places = postings
    intervals, n = sampled.shape[1], sampled.shape[2]
    draws = np.empty((intervals, n), np.uint64)
    for r in range(part, starts.size - 1, parts):
        draws[:] = np.uint64(0xFFFFFFFFFFFFFFFF)
        for q in range(starts[r], starts[r + 1]):
            b = intervals - 1 - _bin(values[places[q]], maxima[r], intervals)
            draw = _draw(first + r, tokens[q])
            if not draw < draws[b, n - 1]:
                continue
            is_excluded = False
            for p in range(excluded.shape[1]):
                is_excluded |= excluded[r, p] == q
            if is_excluded:
                continue
            p = n - 1
            while p > 0 and draw < draws[b, p - 1]:
                draws[b, p], sampled[r, b, p] = draws[b, p - 1], sampled[r, b, p - 1]
                p -= 1
            draws[b, p], sampled[r, b, p] = draw, q


@compiled
def _activation(latents, values, token_starts, token, latent):
    """Return the activation of a latent in a token, 0 where it is silent."""
    lo, hi = token_starts[token], token_starts[token + 1]
    while lo < hi:
        middle = (lo + hi) // 2
        if latents[middle] < latent:
            lo = middle + 1
        else:
            hi = middle
    if lo < token_starts[token + 1] and latents[lo] == latent:
        return values[lo]
    return np.float32(0.0)


@compiled
def find_silent(part, parts, firings, first, top_ids, of_ids, attempts, found):
    """Find tokens of a latent's commonest kinds in which it is silent.

    Args:
        firings: (latents, values, token_starts).
        first: the first latent.
        top_ids: the commonest tokens of each latent, -1 where there are fewer.
        of_ids: (order, starts): the tokens of each id.
        attempts: tokens of one id that are looked at, at random.
        found: receives tokens, int64 [latents, n], -1 where there are fewer.
    """
    latents, values, token_starts = firings
    order, id_starts = of_ids
    for r in range(part, found.shape[0], parts):
        n = 0
        for name in top_ids[r]:
            n_tokens = id_starts[name + 1] - id_starts[name] if name >= 0 else 0
            for attempt in range(attempts if n_tokens else 0):
                draw = _draw(first + r, attempt) % np.uint64(n_tokens)
                t = order[id_starts[name] + np.int64(draw)]
                is_new = n < found.shape[1]
                for p in range(n):
                    is_new &= found[r, p] != t
                if is_new and _activation(latents, values, token_starts, t, first + r) == 0.0:
                    found[r, n] = t
                    n += 1


@compiled
def read_contexts(part, parts, firings, of, firsts, offsets, activations):
    """Read the activations of latents in contexts.

    Args:
        firings: (latents, values, token_starts).
        of: the latent of each context.
        firsts: its first token.
        offsets: where each context begins in `activations`, and the end.
        activations: receives them, float32.
    """
    latents, values, token_starts = firings
    for c in range(part, of.size, parts):
        for p in range(offsets[c], offsets[c + 1]):
            token = firsts[c] + p - offsets[c]
            activations[p] = _activation(latents, values, token_starts, token, of[c])
