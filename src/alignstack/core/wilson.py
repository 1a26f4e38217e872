"""The interval of one rate, which every floor of the project reports."""

import math

Z = 1.959963984540054
"""The 97.5% point of the standard normal distribution."""


def wilson(events: int, n: int) -> tuple[float, float]:
    """95%, two-sided, by Wilson's score (Wilson 1927); [0, 1] for n = 0."""
    if n == 0:
        return 0.0, 1.0
    p = events / n
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    low = 0.0 if events == 0 else middle - half  # exact at the ends, where rounding would leave 1e-17
    high = 1.0 if events == n else middle + half
    return low, high
