"""The average's passes on a GPU: one launch over all tensors, cut into chunks, whatever their number (Triton).

Imported only where it is used. A table holds one row of addresses per tensor (COLUMNS; 0: does not exist), `chunks`
rows of (tensor, start, stop, number). Sums are made in a fixed order, without atomics: the same bits every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

COLUMNS = ("theta", "average", "gradient", "last", "hold", "weights", "old", "origin")
SIZE = 1024
"""Entries that one program handles at a time."""

TYPES = {torch.float64: tl.float64, torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _even(number, aligned: tl.constexpr):
    # Shows the compiler a multiple of 16: it joins no loads whose mask may end anywhere. (The hint tl.multiple_of is
    # lost on the argument of a function.)
    return number // 16 * 16 if aligned else number


@triton.jit
def _address(table, tensor, column: tl.constexpr, kind: tl.constexpr, aligned: tl.constexpr):
    number = tl.load(table + tensor * 8 + column)
    pointer = number.to(tl.pointer_type(kind))
    return number, tl.multiple_of(pointer, 16) if aligned else pointer


@triton.jit
def _chunk(chunks, aligned: tl.constexpr):
    at = chunks + tl.program_id(0) * 4
    return tl.load(at), _even(tl.load(at + 1), aligned), _even(tl.load(at + 2), aligned), tl.load(at + 3)


@triton.jit
def _until(there, start, stop, aligned: tl.constexpr):
    return _even(tl.where(there != 0, stop, start), aligned)


@triton.jit
def measure_kernel(
    table, chunks, made, partial,
    THETA: tl.constexpr, GRADIENT: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr,
    PRODUCTS: tl.constexpr, WEIGHTS: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Four sums of each chunk into partial [chunks, 4]; weights and held gradients become those of this step."""
    tensor, start, stop, number = _chunk(chunks, ALIGNED)
    _, theta_at = _address(table, tensor, 0, THETA, ALIGNED)
    _, average_at = _address(table, tensor, 1, WIDE, ALIGNED)
    has_gradient, gradient_at = _address(table, tensor, 2, GRADIENT, ALIGNED)
    has_last, last_at = _address(table, tensor, 3, LAST, ALIGNED)
    has_hold, hold_at = _address(table, tensor, 4, LAST, ALIGNED)
    _, weights_at = _address(table, tensor, 5, THETA, ALIGNED)
    go = tl.load(made) > 0
    # A tensor without a gradient in this step is left as it is.
    stop = _until(has_gradient, start, stop, ALIGNED)
    last_stop = _until(has_last, start, stop, ALIGNED)
    hold_stop = _until(has_hold, start, stop, ALIGNED)
    a = tl.zeros([SIZE], WIDE)
    b = tl.zeros([SIZE], WIDE)
    c = tl.zeros([SIZE], WIDE)
    d = tl.zeros([SIZE], WIDE)
    for base in range(start, stop, SIZE):
        at = base + tl.arange(0, SIZE)
        inside = at < stop
        theta_raw = tl.load(theta_at + at, inside, 0.0)
        theta = theta_raw.to(WIDE)
        drift = theta - tl.load(average_at + at, inside, 0.0)
        raw = tl.load(gradient_at + at, inside, 0.0)
        gradient = raw.to(WIDE)
        last_raw = tl.load(last_at + at, at < last_stop, 0.0)
        bend = tl.where(at < last_stop, gradient - last_raw.to(WIDE), 0.0)
        step = tl.zeros([SIZE], WIDE)
        if WEIGHTS:
            step = tl.where(inside, theta - tl.load(weights_at + at, inside, 0.0).to(WIDE), 0.0)
            tl.store(weights_at + at, theta_raw, inside)
        tl.store(hold_at + at, tl.where(go, raw.to(LAST), last_raw), at < hold_stop)
        if PRODUCTS:
            a += drift * drift
            b += gradient * drift
            c += bend * step
            d += step * step
        else:
            a += tl.abs(drift)
            b += tl.abs(gradient)
            c += tl.abs(bend)
            d += tl.abs(step)
    tl.store(partial + number * 4, tl.sum(a, 0))
    tl.store(partial + number * 4 + 1, tl.sum(b, 0))
    tl.store(partial + number * 4 + 2, tl.sum(c, 0))
    tl.store(partial + number * 4 + 3, tl.sum(d, 0))


@triton.jit
def gather_kernel(partial, firsts, sums):
    """sums [tensors, 4] fp64 = the partial sums of each tensor's chunks, firsts[t] to firsts[t + 1]."""
    tensor = tl.program_id(0)
    column = tl.arange(0, 4)
    total = tl.zeros([4], tl.float64)
    for chunk in range(tl.load(firsts + tensor), tl.load(firsts + tensor + 1)):
        total += tl.load(partial + chunk * 4 + column).to(tl.float64)
    tl.store(sums + tensor * 4 + column, total)


@triton.jit
def move_kernel(
    table, chunks, weight,
    THETA: tl.constexpr, WIDE: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """average += weight (theta - average), weight [tensors] fp64; a tensor of weight 0 is neither read nor written."""
    tensor, start, stop, _ = _chunk(chunks, ALIGNED)
    _, theta_at = _address(table, tensor, 0, THETA, ALIGNED)
    _, average_at = _address(table, tensor, 1, WIDE, ALIGNED)
    exact = tl.load(weight + tensor)
    share = exact.to(WIDE)
    stop = _until(exact, start, stop, ALIGNED)
    for base in range(start, stop, SIZE):
        at = base + tl.arange(0, SIZE)
        inside = at < stop
        theta = tl.load(theta_at + at, inside, 0.0).to(WIDE)
        average = tl.load(average_at + at, inside, 0.0)
        # As torch.lerp does, so that a weight of 1 gives theta itself.
        moved = tl.where(share < 0.5, average + share * (theta - average), theta - (theta - average) * (1 - share))
        tl.store(average_at + at, moved, inside)


@triton.jit
def consolidate_kernel(
    table, chunks, made, scale, pull,
    THETA: tl.constexpr, GRADIENT: tl.constexpr, WIDE: tl.constexpr,
    SQUARES: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """F_t (column average) += g*g of the un-scaled gradient where the step is made; then g += pull F_old (theta -
    theta_0) scale, for tensors with an address of F_old."""
    tensor, start, stop, _ = _chunk(chunks, ALIGNED)
    _, theta_at = _address(table, tensor, 0, THETA, ALIGNED)
    _, squares_at = _address(table, tensor, 1, WIDE, ALIGNED)
    has_gradient, gradient_at = _address(table, tensor, 2, GRADIENT, ALIGNED)
    has_old, old_at = _address(table, tensor, 6, WIDE, ALIGNED)
    _, origin_at = _address(table, tensor, 7, WIDE, ALIGNED)
    go = tl.load(made) > 0
    factor = tl.load(scale).to(WIDE)
    strength = tl.load(pull).to(WIDE) * factor
    stop = _until(has_gradient, start, stop, ALIGNED)
    pulled_stop = _until(has_old, start, stop, ALIGNED)
    for base in range(start, stop, SIZE):
        at = base + tl.arange(0, SIZE)
        inside = at < stop
        gradient = tl.load(gradient_at + at, inside, 0.0).to(WIDE)
        if SQUARES:
            plain = tl.where(go, gradient / factor, 0.0)
            squares = tl.load(squares_at + at, inside, 0.0)
            tl.store(squares_at + at, squares + plain * plain, inside)
        pulled = at < pulled_stop
        drift = tl.load(theta_at + at, pulled, 0.0).to(WIDE) - tl.load(origin_at + at, pulled, 0.0)
        force = drift * tl.load(old_at + at, pulled, 0.0) * strength
        tl.store(gradient_at + at, (gradient + force).to(GRADIENT), pulled)
