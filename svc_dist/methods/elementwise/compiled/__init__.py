"""Several passes of torch in one loop that numba compiles, where it is installed: the same bytes in less time.

The torch code beside its calls defines every result. What could round differently stays there: products that torch adds
in one rounding, other dtypes, adapters, devices.
"""
