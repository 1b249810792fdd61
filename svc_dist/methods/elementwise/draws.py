"""Random draws that depend on nothing but a seed, a tensor's name, an expert, and an entry's place in the tensor.

SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") mixes a key and a counter into
random bits without any state, so that any piece of a tensor can be drawn anywhere, in any order, with the same result.
Its few multiplications and shifts run over whole arrays, three times as fast as numpy's Philox makes one word after
another.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np

from svc_dist.methods.elementwise.selection import Array, places

_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, None))


@functools.lru_cache(256)
def stream_key(seed: int, tensor: str, expert: int, purpose: str) -> bytes:
    """32 bytes that identify a stream of draws: 16 for its words, 16 for the further bits of some entries."""
    text = f"{purpose}\0{seed}\0{expert}\0{tensor}"
    return hashlib.blake2b(text.encode(), digest_size=32, person=b"svc_dist.draws").digest()


def bernoulli(key: bytes, start: int, end: int, probability: float) -> Array:
    """For entries ``[start, end)`` of a tensor, 1 with ``probability`` and else 0. Shape (end - start), uint8.

    One random byte decides all but one in 256 entries; those take 53 further bits, so that the probability is exact.
    """
    if probability >= 1:
        return np.ones(end - start, dtype=np.uint8)
    whole, fraction = divmod(probability * 256, 1)
    words = _words(key[:16], start, end, np.dtype(np.uint8))
    taken = words < np.uint8(whole)
    if fraction:
        undecided = places(words == np.uint8(whole))
        further = _mixed(key[16:], undecided.astype(np.uint64) + np.uint64(start))
        taken[undecided] = (further >> np.uint64(11)).astype(np.float64) * 2.0**-53 < fraction
    return taken.view(np.uint8)


def uniform(key: bytes, start: int, end: int) -> Array:
    """For entries ``[start, end)`` of a tensor, numbers in [0, 1). Shape (end - start), float32, 24 random bits."""
    words = _words(key[:16], start, end, np.dtype("<u4"))
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _words(key: bytes, start: int, end: int, kind: np.dtype[Any]) -> Array:
    """Random words for entries ``[start, end)``, one each."""
    per_word = 8 // kind.itemsize
    first, last = start // per_word, -(-end // per_word)
    words: Array = _mixed(key, np.arange(first, last, dtype=np.uint64)).astype("<u8", copy=False).view(kind)
    return words[start - first * per_word : end - first * per_word]


def _mixed(key: bytes, counters: Array) -> Array:
    """64 random bits for each of ``counters``, in their place: the output of SplitMix64 after so many steps."""
    seed, gamma = (np.uint64(int.from_bytes(half, "little")) for half in (key[:8], key[8:]))
    counters *= gamma | np.uint64(1)
    counters += seed
    shifted = np.empty_like(counters)
    for shift, factor in _ROUNDS:
        np.right_shift(counters, np.uint64(shift), out=shifted)
        counters ^= shifted
        if factor is not None:
            counters *= np.uint64(factor)
    return counters
