"""Compiled loops over firings. These are mapped files, so there is no version for a GPU."""

from __future__ import annotations

import numpy as np

from temporal_sae.kernels.threads import compiled


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
def count_pairs(part, parts, latents, token_starts, postings, first, rows):
    """Count into rows[i, j] in how many tokens both fire."""
    starts, tokens, places = postings
    for r in range(part, rows.shape[0], parts):
        row = rows[r]
        for q in range(starts[first + r], starts[first + r + 1]):
            for e in range(places[q] + 1, token_starts[tokens[q] + 1]):
                row[latents[e]] += 1


@compiled
def count_pairs_in_windows(
    part, parts, latents, token_starts, postings, first, window_size, rows, squares
):
    """Count pairs, and add up the squares of their counts in windows.

    The counts of one window are those of its few partners, in one short row that stays in the
    cache; they are added to the long rows when the window ends.
    """
    starts, tokens, places = postings
    in_window, touched = np.zeros(rows.shape[1], np.int32), np.empty(rows.shape[1] + 1, np.int32)
    for r in range(part, rows.shape[0], parts):
        n, end = 0, np.int64(0)
        for q in range(starts[first + r], starts[first + r + 1]):
            t = np.int64(tokens[q])
            if t >= end:
                _add_window(in_window, touched[:n], rows[r], squares[r])
                n, end = 0, (t // window_size + 1) * window_size
            for e in range(places[q] + 1, token_starts[t + 1]):
                j = latents[e]
                touched[n] = j
                n += in_window[j] == 0
                in_window[j] += 1
        _add_window(in_window, touched[:n], rows[r], squares[r])


@compiled
def _add_window(in_window, touched, row, squares):
    for j in touched:
        c = np.int64(in_window[j])
        row[j] += c
        squares[j] += c * c
        in_window[j] = 0


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
def by_document(starts, documents, counts, doc_starts, latents, of_latents):
    """List the latents of each document, ascending, from the documents of each latent."""
    free = doc_starts[:-1].copy()
    for i in range(starts.size - 1):
        for q in range(starts[i], starts[i + 1]):
            d = documents[q]
            latents[free[d]], of_latents[free[d]] = i, counts[q]
            free[d] += 1


@compiled
def _next(state):
    """Return the next state of a splitmix64 (Steele, Lea and Flood 2014), and its number."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    x = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, x ^ (x >> np.uint64(31))


@compiled
def deal_out(part, parts, token_starts, first_tokens, lists, seed, dealt, sizes):
    """Give every latent as many tokens of each document as it has, at random and all different.

    Args:
        token_starts: where the firings of each token begin.
        first_tokens: of each document, and the end.
        lists: (starts, latents, counts) of each document, the latents ascending.
        seed: of the draws.
        dealt: receives the firings, ascending within a token.
        sizes: receives how many each token has, int32.
    """
    for d in range(part, first_tokens.size - 1, parts):
        first, last = first_tokens[d], first_tokens[d + 1]
        own = lists[0][d], lists[0][d + 1]
        state = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(d)
        begin, end = token_starts[first], token_starts[last]
        _deal_out_one(
            lists[1][own[0] : own[1]],
            lists[2][own[0] : own[1]],
            _next(state)[1],
            dealt[begin:end],
            sizes[first:last],
        )


@compiled
def _deal_out_one(latents, counts, state, dealt, sizes):
    tokens, order = np.empty(dealt.size, np.int32), np.arange(sizes.size).astype(np.int32)
    e = 0
    for c in counts:
        for n in range(c):  # the first steps of a shuffle
            state, draw = _next(state)
            other = n + np.int64(
                ((draw >> np.uint64(32)) * np.uint64(order.size - n)) >> np.uint64(32)
            )
            order[n], order[other] = order[other], order[n]
            tokens[e] = order[n]
            e += 1
    # By token; within one the latents stay ascending.
    free = np.zeros(sizes.size + 1, np.int64)
    for token in tokens:
        free[token + 1] += 1
    for t in range(sizes.size):
        sizes[t] = free[t + 1]
        free[t + 1] += free[t]
    e = 0
    for i in range(latents.size):
        for _ in range(counts[i]):
            dealt[free[tokens[e]]] = latents[i]
            free[tokens[e]] += 1
            e += 1


@compiled(fastmath={"reassoc", "contract"})
def products(part, parts, rows, i, j, found):
    """Multiply rows of pairs; the order of the sums is free, so that they take few instructions."""
    for q in range(part * i.size // parts, (part + 1) * i.size // parts):
        a, b = rows[i[q]], rows[j[q]]
        total = np.float32(0.0)
        for d in range(rows.shape[1]):
            total += a[d] * b[d]
        found[q] = total


@compiled
def sum_squares(part, parts, starts, documents, counts, sizes, sums):
    """Add up, over the documents of each latent, its squared count over the document's length."""
    for i in range(part, sums.size, parts):
        for a in range(starts[i], starts[i + 1]):
            sums[i] += float(counts[a]) * counts[a] / sizes[documents[a]]
