"""Numbers that tell sympy's expressions apart: a value for each variable shows in a moment that two of them differ."""

from __future__ import annotations

import cmath
import zlib
from typing import Any

Values = tuple[type, tuple[complex, ...]]
"""The kind of an expression (scalar, tuple, matrix) and the values of its elements."""

_TOLERANCE = 1e-4  # relative, absolute below 1; math-verify rounds to six decimals


def values_of(expression: Any) -> Values | None:
    """The values of a scalar, of a tuple's or of a matrix's elements, with a number in (0.5, 1.5) for each variable.

    Args:
        expression: What math-verify read.

    Returns:
        None for all else (sets, intervals, relations, …), and where an element has no finite value.
    """
    import sympy  # type: ignore[import-untyped]

    kind, elements = sympy.Expr, [expression]
    for several in (sympy.Tuple, sympy.MatrixBase):
        if isinstance(expression, several):
            kind, elements = several, list(expression)
    try:
        scalars = [each for each in elements if isinstance(each, sympy.Expr) and not each.is_Matrix]
        numbers = tuple(map(_value, scalars))
    except Exception:  # sympy raises all kinds, RecursionError among them
        return None
    return (kind, numbers) if len(numbers) == len(elements) and all(map(cmath.isfinite, numbers)) else None


def _value(element: Any) -> complex:
    numbers = {symbol: 0.5 + zlib.crc32(symbol.name.encode()) / 2**32 for symbol in element.free_symbols}
    return complex(element.evalf(15, subs=numbers))


def apart(one: Values | None, other: Values | None) -> bool:
    """Whether two expressions of a kind have different values; False also where that cannot be told."""
    if one is None or other is None or one[0] is not other[0] or len(one[1]) != len(other[1]):
        return False
    return any(abs(a - b) > _TOLERANCE * max(1.0, abs(a), abs(b)) for a, b in zip(one[1], other[1], strict=True))
