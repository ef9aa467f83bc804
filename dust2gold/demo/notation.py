r"""Other ways to write a whole number, as real teachers do: `12.0`, `\frac{24}{2}`, `12 apples`, `\$12.00`, `1{,}200`.

The MATH convention's string comparison calls each of them another answer than `12` or `1200`, a comparison by value
does not: they are the label noise that semantic grading takes out of D_neg.
"""

from __future__ import annotations

import random


def other_notation(value: int, unit: str | None, rng: random.Random) -> str:
    """Writes a number another way than in plain digits.

    Args:
        value: The number.
        unit: What is counted, as in "apples"; None if it must not follow the number.
        rng: Chooses among the ways that suit.
    """
    ways = [f"{value}.0", rf"\frac{{{2 * value}}}{{2}}"]
    if unit is not None:
        ways.append(rf"\${value}.00" if unit == "dollars" else f"{value} {unit}")
    if abs(value) >= 1000:
        ways.append(f"{value:,}".replace(",", "{,}"))
    return rng.choice(ways)
