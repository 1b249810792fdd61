"""When SVC rounds what it projects: decided once, for the function and for its cost. Importing this loads no torch."""

from __future__ import annotations

ROUNDED_FROM = 2048  # directions; of fewer, a float32 SVD is more accurate than coefficients in bfloat16


def rounds_coefficients(directions: int) -> bool:
    """Whether ``fast`` projects onto so many directions in bfloat16, where the device has it."""
    return directions >= ROUNDED_FROM
