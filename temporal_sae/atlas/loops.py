"""Compiled loops over firings. These are mapped files, so there is no version for a GPU."""

from __future__ import annotations

import numpy as np

from temporal_sae.kernels.threads import compiled

COUNTS, SQUARES = range(2)


@compiled
def count_firings(part, parts, latents, counts):
    own = counts[part]
    for e in range(part * latents.size // parts, (part + 1) * latents.size // parts):
        own[latents[e]] += 1


@compiled
def are_in_order(latents, token_starts, n_latents):
    """Return whether the latents of every token ascend, from 0 to n_latents - 1."""
    for t in range(token_starts.size - 1):
        before = np.int64(-1)
        for e in range(token_starts[t], token_starts[t + 1]):
            latent = np.int64(latents[e])
            if latent <= before or latent >= n_latents:
                return False
            before = latent
    return True


@compiled
def list_firings(latents, token_starts, lo, starts, tokens, places, first, last):
    """List the firings of the latents lo + first ≤ i < lo + last, each in order of its tokens."""
    free = starts[first:last].copy()
    for t in range(token_starts.size - 1):
        for e in range(token_starts[t], token_starts[t + 1]):
            own = np.int64(latents[e]) - lo - first
            if 0 <= own < free.size:
                tokens[free[own]] = t
                places[free[own]] = e
                free[own] += 1


@compiled
def count_pairs(part, parts, latents, token_starts, postings, first, window_size, rows):
    """Count pairs into rows[i, j]: tokens, and the sum of squares of the counts in windows.

    A square grows by 2c + 1 when a count c grows by one; so a window's counts need no second pass.
    """
    starts, tokens, places = postings
    in_window = np.zeros((rows.shape[1], 2), np.int32)  # number of the window + 1, and the count
    for r in range(part, rows.shape[0], parts):
        row = rows[r]
        in_window[:] = 0
        for q in range(starts[first + r], starts[first + r + 1]):
            window = np.int32(tokens[q] // window_size + 1)
            for e in range(places[q] + 1, token_starts[tokens[q] + 1]):
                j = latents[e]
                if in_window[j, 0] != window:
                    in_window[j, 0] = window
                    in_window[j, 1] = 0
                c = in_window[j, 1]
                in_window[j, 1] = c + 1
                row[j, COUNTS] += 1
                row[j, SQUARES] += 2 * np.int64(c) + 1


@compiled
def count_documents(latents, token_starts, number, last, n_documents):
    """Count the documents in which each latent fires."""
    for t in range(number.size):
        for e in range(token_starts[t], token_starts[t + 1]):
            if last[latents[e]] != number[t]:
                last[latents[e]] = number[t]
                n_documents[latents[e]] += 1


@compiled
def list_documents(latents, token_starts, number, lists):
    """List the documents of each latent, with its firings in each."""
    starts, documents, counts = lists
    free = starts[:-1].copy()
    for t in range(number.size):
        for e in range(token_starts[t], token_starts[t + 1]):
            i = latents[e]
            if free[i] == starts[i] or documents[free[i] - 1] != number[t]:
                documents[free[i]] = number[t]
                free[i] += 1
            counts[free[i] - 1] += 1


@compiled
def compare_documents(part, parts, starts, documents, counts, sizes, i, j, both, moments):
    """Count common documents, and sum mean and variance of hypergeometric counts over them."""
    for q in range(part * i.size // parts, (part + 1) * i.size // parts):
        a, b = starts[i[q]], starts[j[q]]
        common, mean, variance = 0, 0.0, 0.0
        while a < starts[i[q] + 1] and b < starts[j[q] + 1]:
            if documents[a] < documents[b]:
                a += 1
            elif documents[a] > documents[b]:
                b += 1
            else:
                size, m, n = sizes[documents[a]], float(counts[a]), float(counts[b])
                common += 1
                mean += m * n / size
                if size > 1:
                    variance += m * n * (size - m) * (size - n) / (size * size * (size - 1))
                a += 1
                b += 1
        both[q] = common
        moments[q, 0], moments[q, 1] = mean, variance


@compiled
def insert(of, other, score, latents, scores):
    """Insert `other` into the list of `of`, which falls; equal scores keep their order."""
    last = latents.shape[1] - 1
    for q in range(of.size):
        own, names = scores[of[q]], latents[of[q]]
        if not score[q] > own[last]:
            continue
        p = last
        while p > 0 and score[q] > own[p - 1]:
            own[p], names[p] = own[p - 1], names[p - 1]
            p -= 1
        own[p], names[p] = score[q], other[q]


@compiled
def deal_out(latents, token_starts, number, seed, dealt, sizes):
    """Give every latent as many tokens of each document as it has, at random and all different.

    Args:
        latents, token_starts: of the firings.
        number: of each token's document, ascending.
        seed: of the draws.
        dealt: receives the firings, ascending within a token.
        sizes: receives how many each token has, int32.
    """
    np.random.seed(seed)
    first = 0
    while first < number.size:
        last = first
        while last < number.size and number[last] == number[first]:
            last += 1
        _deal_out_one(latents, token_starts, first, last, dealt, sizes)
        first = last


@compiled
def _deal_out_one(latents, token_starts, first, last, dealt, sizes):
    begin, end = token_starts[first], token_starts[last]
    own = np.sort(latents[begin:end])
    tokens = np.empty(own.size, np.int32)
    order = np.arange(last - first).astype(np.int32)
    e = 0
    while e < own.size:
        n = 0
        while e + n < own.size and own[e + n] == own[e]:
            other = n + np.random.randint(order.size - n)  # the first steps of a shuffle
            order[n], order[other] = order[other], order[n]
            tokens[e + n] = order[n]
            n += 1
        e += n
    # By token; within one the latents stay ascending, as they are in `own`.
    free = np.zeros(last - first + 1, np.int64)
    for e in range(own.size):
        free[tokens[e] + 1] += 1
    for t in range(last - first):
        sizes[first + t] = free[t + 1]
        free[t + 1] += free[t]
    for e in range(own.size):
        dealt[begin + free[tokens[e]]] = own[e]
        free[tokens[e]] += 1
