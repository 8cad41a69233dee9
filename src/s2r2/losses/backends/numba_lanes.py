"""Eight float32 side by side in compiled loops: what no compiler makes of a loop whose every step goes to another row.

Both functions are written in LLVM's own vectors, which it turns into the instructions of whatever processor it is for.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending, types

intrinsic: Any = extending.intrinsic
LANES = 8
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_ALIGNED = 4
_CONTRACT = ("contract",)


@intrinsic
def add_powers(typing: Any, table: Any, row: Any, x: Any) -> Any:
    """Add 1, x, x^2 ... x^7 to a row of ``table``, ``(rows, 8)`` float32 in C order; ``row`` is not checked."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _row(context, builder, signature.args[0], values[0], values[1])
        power, powers = _spread(builder, values[2]), None
        for step in (1, 2, 4):  # the lanes whose number has this bit set are multiplied by x, x^2, x^4
            chosen = ir.Constant(ir.VectorType(ir.IntType(1), LANES), [bool(k & step) for k in range(LANES)])
            factor = builder.select(chosen, power, ir.Constant(_VECTOR, [1.0] * LANES))
            powers = factor if powers is None else builder.fmul(powers, factor)
            power = builder.fmul(power, power)
        builder.store(builder.fadd(builder.load(place, align=_ALIGNED), powers), place, align=_ALIGNED)
        return context.get_dummy_value()

    return types.void(table, types.uint32, types.float32), generate


@intrinsic
def read_eight(typing: Any, table: Any, rows: Any, x: Any, first: Any, out: Any) -> Any:
    """Set ``out[j]`` to sum over m of ``table[rows[j], m] * x[j]**m`` for the eight j from ``first``.

    ``table`` is ``(any, 8)`` float32, ``rows`` int32, ``x`` and ``out`` float32, all in C order; nothing is checked.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = values[3]
        places = _element(context, builder, signature.args[1], values[1], start)
        vectors = []
        for k in range(LANES):
            row = builder.load(builder.gep(places, [ir.Constant(ir.IntType(64), k)]))
            place = _row(context, builder, signature.args[0], values[0], row)
            vectors.append(builder.load(place, align=_ALIGNED))
        coefficients = _transposed(builder, vectors)
        at = _vector_at(context, builder, signature.args[2], values[2], start)
        x = builder.load(at, align=_ALIGNED)
        total = coefficients[-1]
        for coefficient in coefficients[-2::-1]:
            product = builder.fmul(total, x, flags=_CONTRACT)
            total = builder.fadd(product, coefficient, flags=_CONTRACT)
        builder.store(total, _vector_at(context, builder, signature.args[4], values[4], start), align=_ALIGNED)
        return context.get_dummy_value()

    return types.void(table, rows, x, types.int64, out), generate


def _element(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


def _vector_at(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    return builder.bitcast(_element(context, builder, kind, array, index), _VECTOR.as_pointer())


def _row(context: Any, builder: Any, kind: Any, table: Any, row: Any) -> Any:
    index = builder.mul(builder.zext(row, ir.IntType(64)), ir.Constant(ir.IntType(64), LANES))
    return _vector_at(context, builder, kind, table, index)


def _spread(builder: Any, value: Any) -> Any:
    """The same number in all lanes."""
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Eight vectors of eight, lane k of the m-th being lane m of the k-th: three rounds that swap blocks of 1, 2, 4."""
    for size in (1, 2, 4):
        upper = [k if not k & size else LANES + (k ^ size) for k in range(LANES)]
        lower = [(k | size) if not k & size else LANES + k for k in range(LANES)]
        swapped = list(rows)
        for k in range(LANES):
            if not k & size:
                pair = rows[k], rows[k | size]
                swapped[k], swapped[k | size] = (_shuffled(builder, *pair, lanes) for lanes in (upper, lower))
        rows = swapped
    return rows


def _shuffled(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes))
