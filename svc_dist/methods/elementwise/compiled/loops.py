"""The compiled loops. Importing this compiles them, or loads them from numba's cache.

They take flat entries in bfloat16 by their addresses (any number of experts is one signature), and work block by block,
so that what passes from one step to the next stays in the processor's first cache. Every operation rounds as torch
does it: ``fastmath`` stays off, so that nothing is fused or reordered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, config, njit, types
from numba.extending import intrinsic

from svc_dist.methods.elementwise.compiled.rules import ALONE, AVERAGED, DROP, EVERYTHING, NOTHING, SUMMED, TRIM

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT: numba compiles nothing")

BLOCK = 2048
_EIGHT, _ELEVEN = np.uint64(8), np.uint64(11)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ONES, _TOPS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_SIGN, _REST = np.uint32(1 << 31), np.uint32((1 << 31) - 1)
_ZERO, _UNIT = np.float32(0), np.float32(1)


def _compiled(signature: str) -> Callable[[Any], Any]:
    def compile_now(function: Any) -> Any:
        try:
            return njit(signature, nogil=True, cache=True)(function)
        except Exception:  # no folder is writable for a cache, its disk is full, or a file in it is damaged
            return njit(signature, nogil=True)(function)

    return compile_now


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(_: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint16)(address), code


@njit  # type: ignore[untyped-decorator]
def _bits(value: Any) -> Any:
    return np.float32(value).view(np.uint32)


@njit  # type: ignore[untyped-decorator]
def _value(bits: Any) -> Any:
    return np.uint32(bits).view(np.float32)


@njit  # type: ignore[untyped-decorator]
def _decoded(word: Any) -> Any:
    return _value(np.uint32(word) << np.uint32(16))


@njit  # type: ignore[untyped-decorator]
def _subtract(expert: Any, base: Any, part: Any) -> None:
    for at in range(len(part)):
        part[at] = _decoded(expert[at]) - _decoded(base[at])


@njit  # type: ignore[untyped-decorator]
def _add(expert: Any, base: Any, factor: Any, total: Any, first: Any) -> None:
    """A delta times ``factor`` added to ``total``, or set if it is the first."""
    if first:
        for at in range(len(total)):
            total[at] = (_decoded(expert[at]) - _decoded(base[at])) * factor
    else:
        for at in range(len(total)):
            total[at] += (_decoded(expert[at]) - _decoded(base[at])) * factor


@njit  # type: ignore[untyped-decorator]
def _shrink(part: Any, limit: Any) -> None:
    """Zero where the magnitude is not above ``limit``, both as bits: a NaN is above everything."""
    for at in range(len(part)):
        part[at] = part[at] if (_bits(part[at]) & _REST) > limit else _ZERO


@njit  # type: ignore[untyped-decorator]
def _mixed(counter: Any, seed: Any, gamma: Any) -> Any:
    """SplitMix64, as ``draws`` has it."""
    word = counter * gamma + seed
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))


@njit  # type: ignore[untyped-decorator]
def _drop(part: Any, first: Any, rule: Any, words: Any, taken: Any) -> None:
    """``part``, whose first entry is number ``first`` of its tensor, times the draws of ``bernoulli``."""
    size, whole = len(part), rule[5]
    begin = first // _EIGHT
    shift = np.int64(first - begin * _EIGHT)
    count = (shift + size + 7) // 8
    for at in range(count):
        words[at] = _mixed(begin + np.uint64(at), rule[1], rule[2])
    drawn, least = words.view(np.uint8)[shift:], np.uint8(whole)
    for at in range(size):
        taken[at] = drawn[at] < least
    for at in range(count):
        difference = words[at] ^ (whole * _ONES)
        if (difference - _ONES) & ~difference & _TOPS:  # a byte is equal: undecided
            for entry in range(at * 8 - shift, at * 8 - shift + 8):
                if 0 <= entry < size and drawn[entry] == least:
                    taken[entry] = _mixed(first + np.uint64(entry), rule[3], rule[4]) >> _ELEVEN < rule[6]
    for at in range(size):
        part[at] *= np.float32(taken[at])


@njit  # type: ignore[untyped-decorator]
def _leave(part: Any, first: Any, start: Any, rule: Any, words: Any, taken: Any) -> None:
    """What ``rule`` leaves of a delta from entry ``start`` on, which is number ``first`` of its tensor: in place."""
    if rule[0] == TRIM:
        ties = np.int64(rule[1]) - start
        ties = 0 if ties < 0 else len(part) if ties > len(part) else ties
        _shrink(part[:ties], np.uint32(rule[2]))
        _shrink(part[ties:], np.uint32(rule[3]))
    elif rule[0] == DROP:
        _drop(part, first, rule, words, taken)
    elif rule[0] == NOTHING:
        for at in range(len(part)):
            part[at] *= _ZERO


@njit  # type: ignore[untyped-decorator]
def _tally(part: Any, signed: Any, absolute: Any, positive: Any, negative: Any, first: Any, votes: Any) -> None:
    if first:
        for at in range(len(part)):
            signed[at] = part[at]
            absolute[at] = abs(part[at])
    else:
        for at in range(len(part)):
            signed[at] += part[at]
            absolute[at] += abs(part[at])
    if votes:
        for at in range(len(part)):
            positive[at] += np.float32(part[at] > _ZERO)
            negative[at] += np.float32(part[at] < _ZERO)


@njit  # type: ignore[untyped-decorator]
def _elect(signed: Any, absolute: Any, positive: Any, negative: Any, common: Any, votes: Any, merged: Any) -> None:
    for at in range(len(merged)):
        agreed = _value(_bits(absolute[at]) | (_bits(signed[at]) & _SIGN))
        merged[at] = (agreed + signed[at]) * common
    if votes:
        for at in range(len(merged)):
            plus, minus = positive[at], negative[at]
            agreeing = plus if signed[at] >= _ZERO else minus
            merged[at] /= agreeing if agreeing > _ZERO else _UNIT


@_compiled("void(uint64[::1], uint64, uint64, uint64[:, ::1], float32[::1], float32, uint8, float32[::1])")
def merged(experts: Any, base: Any, offset: Any, rules: Any, factors: Any, common: Any, how: Any, result: Any) -> None:
    """What ``rules`` leave of the deltas, times ``factors``, merged ``how``.

    ALONE: of the only expert. SUMMED: added up. ELECTED: as ``elected_sum`` does. AVERAGED: that, over the number of
    experts that took part. All but ALONE times ``common``.
    """
    size = len(result)
    words, taken = np.empty(BLOCK // 8 + 1, np.uint64), np.empty(BLOCK, np.uint8)
    rows = np.empty((5, BLOCK), np.float32)  # the last two hold counts, which are exact
    theirs = carray(_pointer(base), size)
    for start in range(0, size, BLOCK):
        output = result[start : start + BLOCK]
        count = len(output)
        if how == AVERAGED:
            rows[3:, :] = _ZERO
        for expert in range(len(experts)):
            ours = carray(_pointer(experts[expert]), size)
            if how == SUMMED and rules[expert, 0] == EVERYTHING:
                _add(ours[start:], theirs[start:], factors[expert], output, expert == 0)
                continue
            part = output if how == ALONE else rows[0, :count]
            _subtract(ours[start:], theirs[start:], part)
            _leave(part, offset + np.uint64(start), start, rules[expert], words, taken)
            if factors[expert] != 1:
                for at in range(count):
                    part[at] *= factors[expert]
            if how == SUMMED:
                for at in range(count):
                    output[at] = part[at] if expert == 0 else output[at] + part[at]
            elif how != ALONE:
                _tally(part, rows[1], rows[2], rows[3], rows[4], expert == 0, how == AVERAGED)
        if how == SUMMED and common != 1:
            for at in range(count):
                output[at] *= common
        elif how > SUMMED:
            _elect(rows[1], rows[2], rows[3], rows[4], common, how == AVERAGED, output)


@njit  # type: ignore[untyped-decorator]
def _compare(expert: Any, base: Any, low: Any, high: Any, magnitudes: Any, inside: Any) -> Any:
    """Magnitudes of a delta, and which lie in ``[low, high]``; how many lie above."""
    above = np.uint32(0)
    for at in range(len(magnitudes)):
        magnitude = abs(_decoded(expert[at]) - _decoded(base[at]))
        magnitudes[at] = magnitude
        above = np.uint32(above + np.uint32(magnitude > high))
    for at in range(len(magnitudes)):
        inside[at] = (magnitudes[at] >= low) != (magnitudes[at] > high)
    return above


@_compiled("int64(uint64, uint64, int64, float32, float32, float32[::1], int64[::1], float32[::1])")
def bracketed(expert: Any, base: Any, size: Any, low: Any, high: Any, heavy: Any, counts: Any, collected: Any) -> Any:
    """How many magnitudes of a delta lie in ``[low, high]`` and equal none of ``heavy``: they are collected.

    Adds to ``counts`` how many lie above, then how many equal each of ``heavy``.
    """
    ours, theirs = carray(_pointer(expert), size), carray(_pointer(base), size)
    magnitudes, flags, found = np.empty(BLOCK, np.float32), np.zeros(BLOCK // 8, np.uint64), 0
    inside = flags.view(np.uint8)
    for start in range(0, size, BLOCK):
        count = BLOCK if size - start > BLOCK else size - start
        counts[0] += _compare(ours[start:], theirs[start:], low, high, magnitudes[:count], inside[:count])
        inside[count:] = 0  # behind the end of the last block
        for eight in range((count + 7) // 8):
            if flags[eight]:
                for at in range(eight * 8, eight * 8 + 8):
                    if inside[at]:
                        collected[found] = magnitudes[at]
                        found += 1
    for number in range(len(heavy)):
        light = 0
        for at in range(found):
            collected[light] = collected[at]
            light += collected[at] != heavy[number]
        counts[1 + number] = found - light
        found = light
    return found


@_compiled("boolean(uint64, float32[::1], uint32, uint16[::1])")
def added(base: Any, delta: Any, limit: Any, result: Any) -> Any:
    """Base plus delta, rounded to the nearest even bfloat16; whether no magnitude's bits are above ``limit``."""
    theirs, largest = carray(_pointer(base), len(delta)), np.uint32(0)
    for at in range(len(delta)):
        bits = _bits(_decoded(theirs[at]) + delta[at])
        magnitude = np.uint32(bits & _REST)
        largest = magnitude if magnitude > largest else largest
        result[at] = np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
    return largest <= limit
