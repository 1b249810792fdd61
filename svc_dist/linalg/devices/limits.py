"""What a build of torch can decompose on a GPU. Importing this loads no torch."""

from __future__ import annotations

import re

#: Rows of a symmetric matrix that cuSOLVER took before CUDA 13: beyond 23,000 to 26,700, its 32-bit sizes overflow.
_BEFORE_CUDA_13 = 23_000
#: Entries of workspace per entry of the matrix that cuSOLVER's eigensolver asks for, beside the vectors.
WORKSPACE = 3.0


def largest_eigenproblem(build: str) -> int | None:
    """Rows of the largest symmetric matrix for a build of torch such as ``2.13.0+cu126``; None: memory is the limit."""
    match = re.search(r"\+cu(\d+)\d$", build)
    return _BEFORE_CUDA_13 if match is not None and int(match[1]) < 13 else None
