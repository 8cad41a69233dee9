"""The kernels of the backend ``triton-split``: what is summed over each pair of a query's positive and a candidate.

With a_i = s_i log2(e) / T and f_j = 2^(-s_j log2(e) / T), sigmoid((s_j - s_i) / T) = 1 / (1 + 2^a_i f_j). Where no
similarity exceeds :data:`REACH` T / log2(e), float32 has the range for products of these, and two sigmoids share one
reciprocal: 1/x + 1/y = (x + y) / (x y). Elsewhere (``WIDE``) each takes an exponential of its own. Which it is, only
the device knows (``wide``): both variants of a kernel are started, and one of them ends at once.

Embeddings come as two float16 each, high and low part of a float32 times a power of two, so that three products of
float16 on tensor cores are one of float32.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

REACH = 31.0
"""Largest similarity, in powers of two of exp(similarity / T), for which no product below leaves float32."""
HIDDEN = tl.constexpr(48.0)
"""log2 of f_j of a hidden candidate: beside the nearest positives, 2^-77 of a sigmoid."""

if os.environ.get("TRITON_INTERPRET") == "1":

    @triton.jit
    def _reciprocal(x):  # type: ignore[no-untyped-def]
        return 1.0 / x

    @triton.jit
    def _exp2(x):  # type: ignore[no-untyped-def]
        return tl.exp2(x)

else:

    @triton.jit
    def _reciprocal(x):  # type: ignore[no-untyped-def]
        """To one unit in the last place, without the full-range division."""
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)

    @triton.jit
    def _exp2(x):  # type: ignore[no-untyped-def]
        """To two units in the last place."""
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def _part(pointer, at, n, depth, first, BD: tl.constexpr):  # type: ignore[no-untyped-def]
    """Components ``first`` to ``first + BD`` of some embeddings, zero beyond the ends."""
    d = first + tl.arange(0, BD)
    known = (at[:, None] < n) & (d[None, :] < depth)
    return tl.load(pointer + at[:, None].to(tl.int64) * depth + d[None, :], mask=known, other=0.0)


@triton.jit
def _product(a_hi, a_lo, b_hi, b_lo, total):  # type: ignore[no-untyped-def]
    """``total`` + a b of float32, the small products first."""
    total = tl.dot(a_lo, b_hi, total)
    total = tl.dot(a_hi, b_lo, total)
    return tl.dot(a_hi, b_hi, total)


@triton.jit
def _similarities(  # type: ignore[no-untyped-def]
    a_hi, a_lo, rows_hi, rows_lo, r, n_rows, cols_hi, cols_lo, c, n_cols, depth,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, ONE: tl.constexpr,
):  # fmt: skip
    """Products of a tile ``(BM, BN)``; ``a_hi`` and ``a_lo`` are the rows' first parts, all of them if ``ONE``."""
    s = tl.zeros([BM, BN], tl.float32)
    b_hi, b_lo = _part(cols_hi, c, n_cols, depth, 0, BD), _part(cols_lo, c, n_cols, depth, 0, BD)
    s = _product(a_hi, a_lo, tl.trans(b_hi), tl.trans(b_lo), s)
    if not ONE:
        for first in range(BD, depth, BD):
            x_hi, x_lo = _part(rows_hi, r, n_rows, depth, first, BD), _part(rows_lo, r, n_rows, depth, first, BD)
            y_hi, y_lo = _part(cols_hi, c, n_cols, depth, first, BD), _part(cols_lo, c, n_cols, depth, first, BD)
            s = _product(x_hi, x_lo, tl.trans(y_hi), tl.trans(y_lo), s)
    return s, b_hi, b_lo


@triton.jit
def _at(pointer, p, n_points, at, n, other):  # type: ignore[no-untyped-def]
    """Entry p of a table ``(n_points, n)`` for some queries."""
    place = tl.zeros_like(at) + p
    return tl.load(pointer + place * n + at, mask=(at < n) & (place < n_points), other=other)


@triton.jit
def count(  # type: ignore[no-untyped-def]
    q_hi, q_lo, c_hi, c_lo, query_ids, candidate_ids, points, above, slope, lowest, exponent, wide,
    n_queries, n_candidates, depth, n_points,
    PB: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, ONE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Fill ``above`` with sum_j sigma_ij and ``slope`` with sum_j sigma_ij (1 - sigma_ij), ``(P, Q)``.

    ``points`` ``(P, Q)`` has 2^a_i, or a_i where wide; similarities times ``exponent`` are -s_j log2(e) / T, whose
    least among the negatives goes to ``lowest`` ``(Q,)``.
    """
    if tl.load(wide) != WIDE:
        return
    q = tl.program_id(0) * BM + tl.arange(0, BM)
    first = tl.program_id(1) * PB
    own = tl.load(query_ids + q, mask=q < n_queries, other=-2)
    to_power = tl.load(exponent)
    a_hi, a_lo = _part(q_hi, q, n_queries, depth, 0, BD), _part(q_lo, q, n_queries, depth, 0, BD)
    e, sums, slopes = (), (), ()
    for p in tl.static_range(PB):
        e = e + (_at(points, first + p, n_points, q, n_queries, 1.0),)
        sums = sums + (tl.zeros([BM, 4], tl.float32),)
        slopes = slopes + (tl.zeros([BM, 4], tl.float32),)
    least = tl.full([BM, 8], float("inf"), tl.float32)
    for j0 in range(0, n_candidates, BN):
        j = j0 + tl.arange(0, BN)
        theirs = tl.load(candidate_ids + j, mask=j < n_candidates, other=-1)
        s, _, _ = _similarities(
            a_hi, a_lo, q_hi, q_lo, q, n_queries, c_hi, c_lo, j, n_candidates, depth, BM, BN, BD, ONE
        )
        negative = (theirs[None, :] != own[:, None]) & (j[None, :] < n_candidates)
        power = tl.where(negative, s * to_power, float("inf") if WIDE else HIDDEN)
        # Sums of what one thread holds: eight neighboring columns stay apart until the end.
        least = tl.minimum(least, tl.min(tl.reshape(power, [BM, BN // 8, 8]), 1))
        new_sums, new_slopes = (), ()
        if WIDE:
            for p in tl.static_range(PB):
                x = _reciprocal(1.0 + _exp2(e[p][:, None] + power))
                u, v = _halved(x, BM, BN), _halved(x - x * x, BM, BN)
                new_sums = new_sums + (sums[p] + u,)
                new_slopes = new_slopes + (slopes[p] + v,)
        else:
            f1, f2 = tl.split(tl.reshape(_exp2(power), [BM, BN // 2, 2]))
            both, product = f1 + f2, f1 * f2
            for p in tl.static_range(PB):
                ep = e[p][:, None]
                r = _reciprocal(1.0 + ep * (both + ep * product))
                u = (2.0 + ep * both) * r  # x + y
                v = u + (2.0 * r - u * u)  # x - x^2 + y - y^2, for x y = r
                new_sums = new_sums + (sums[p] + tl.sum(tl.reshape(u, [BM, BN // 8, 4]), 1),)
                new_slopes = new_slopes + (slopes[p] + tl.sum(tl.reshape(v, [BM, BN // 8, 4]), 1),)
        sums, slopes = new_sums, new_slopes
    for p in tl.static_range(PB):
        place = tl.zeros_like(q) + first + p
        known = (q < n_queries) & (place < n_points)
        at = place * n_queries + q
        tl.store(above + at, tl.sum(sums[p], 1), mask=known)
        tl.store(slope + at, tl.sum(slopes[p], 1), mask=known)
    tl.store(lowest + q, tl.min(least, 1), mask=q < n_queries)


@triton.jit
def _halved(x, BM: tl.constexpr, BN: tl.constexpr):  # type: ignore[no-untyped-def]
    """Sums of a tile in four columns."""
    even, odd = tl.split(tl.reshape(x, [BM, BN // 2, 2]))
    return tl.sum(tl.reshape(even + odd, [BM, BN // 8, 4]), 1)


@triton.jit
def _slope(f, e, w, g, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """``g`` + w sigma (1 - sigma)."""
    x = _reciprocal(1.0 + (_exp2(e + f) if WIDE else e * f))
    return g + w * (x - x * x)


@triton.jit
def _two_slopes(f, e1, w1, e2, w2, g, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The same for two positives, by one reciprocal."""
    if WIDE:
        return _slope(f, e2, w2, _slope(f, e1, w1, g, WIDE), WIDE)
    x, y = 1.0 + e1 * f, 1.0 + e2 * f
    r = _reciprocal(x * y)
    x, y = r * y, r * x
    g += w1 * (x - x * x)
    return g + w2 * (y - y * y)


@triton.jit
def pull(  # type: ignore[no-untyped-def]
    rows_hi, rows_lo, cols_hi, cols_lo, row_ids, col_ids, row_points, row_weights, col_points, col_weights,
    gradient, unit, exponent, wide, n_rows, n_cols, depth, n_points,
    PB: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, ONE: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add H times the columns' embeddings to ``gradient`` ``(n_rows, depth)``, in units of ``unit``.

    H is the sum over positives of w_i sigma_ij (1 - sigma_ij): positives of the row if the rows are queries (``ROWS``),
    of the column if those are (``COLUMNS``), or both, where every embedding is query and candidate. Tables are
    ``(P, rows)`` and ``(P, columns)``; weights are such that float16 holds H. ``BLOCK``: PB is all P.
    """
    if tl.load(wide) != WIDE:
        return
    r = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.program_id(1) * BD
    own = tl.load(row_ids + r, mask=r < n_rows, other=-2)
    to_power = tl.load(exponent)
    a_hi, a_lo = _part(rows_hi, r, n_rows, depth, 0, BD), _part(rows_lo, r, n_rows, depth, 0, BD)
    e, w = (), ()
    if ROWS and BLOCK:
        for p in tl.static_range(PB):
            e = e + (_at(row_points, p, n_points, r, n_rows, 1.0),)
            w = w + (_at(row_weights, p, n_points, r, n_rows, 0.0),)
    total = tl.zeros([BM, BD], tl.float32)
    for c0 in range(0, n_cols, BN):
        c = c0 + tl.arange(0, BN)
        theirs = tl.load(col_ids + c, mask=c < n_cols, other=-1)
        s, b_hi, b_lo = _similarities(
            a_hi, a_lo, rows_hi, rows_lo, r, n_rows, cols_hi, cols_lo, c, n_cols, depth, BM, BN, BD, ONE
        )
        f = s * to_power if WIDE else _exp2(s * to_power)
        h = tl.zeros([BM, BN], tl.float32)
        if BLOCK:
            for p in tl.static_range(PB):
                if COLUMNS:
                    e_c = _at(col_points, p, n_points, c, n_cols, 1.0)[None, :]
                    w_c = _at(col_weights, p, n_points, c, n_cols, 0.0)[None, :]
                if ROWS and COLUMNS:
                    h = _two_slopes(f, e[p][:, None], w[p][:, None], e_c, w_c, h, WIDE)
                elif COLUMNS:
                    h = _slope(f, e_c, w_c, h, WIDE)
                else:
                    h = _slope(f, e[p][:, None], w[p][:, None], h, WIDE)
        else:
            for p in range(n_points):
                if ROWS:
                    e_r = _at(row_points, p, n_points, r, n_rows, 1.0)[:, None]
                    w_r = _at(row_weights, p, n_points, r, n_rows, 0.0)[:, None]
                if COLUMNS:
                    e_c = _at(col_points, p, n_points, c, n_cols, 1.0)[None, :]
                    w_c = _at(col_weights, p, n_points, c, n_cols, 0.0)[None, :]
                if ROWS and COLUMNS:
                    h = _two_slopes(f, e_r, w_r, e_c, w_c, h, WIDE)
                elif COLUMNS:
                    h = _slope(f, e_c, w_c, h, WIDE)
                else:
                    h = _slope(f, e_r, w_r, h, WIDE)
        negative = (theirs[None, :] != own[:, None]) & (c[None, :] < n_cols) & (r[:, None] < n_rows)
        h = tl.where(negative, h, 0.0)
        h_hi = h.to(tl.float16)
        h_lo = (h - h_hi.to(tl.float32)).to(tl.float16)
        if not ONE:
            b_hi, b_lo = _part(cols_hi, c, n_cols, depth, d, BD), _part(cols_lo, c, n_cols, depth, d, BD)
        total = _product(h_hi, h_lo, b_hi, b_lo, total)
    to = d + tl.arange(0, BD)
    at = gradient + r[:, None].to(tl.int64) * depth + to[None, :]
    known = (r[:, None] < n_rows) & (to[None, :] < depth)
    tl.store(at, tl.load(at, mask=known, other=0.0) + total * tl.load(unit), mask=known)
