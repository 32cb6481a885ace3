"""Arithmetic of C's long double on x86, in integers: what INCRBYFLOAT computes with in Redis.

A value is `(mantissa, exponent)`: mantissa * 2**exponent with at most 64 bits of mantissa.

Invariants: `read`, `add` and `text` give, digit for digit, what strtold, `+` and `%.17Lf` give there; what
they cost is bounded by `TEXT_BYTES_MAX`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

TEXT_BYTES_MAX: Final = 5 * 1024 - 1
"""Longest number that Redis reads (MAX_LONG_DOUBLE_CHARS)."""

INFINITE: Final = (1, 1 << 20)

_MANTISSA_BITS: Final = 64
_EXPONENT_MIN: Final = -16445  # of the last bit: numbers below the normal ones have fewer bits
_MAGNITUDE_MAX: Final = 16384  # as bits
_DIGITS: Final = 5_000  # decimal magnitudes beyond are out of range, whatever their digits
_PLACES: Final = 17

_FORM: Final = re.compile(
    rb"([+-]?)(?:(?P<infinite>inf(?:inity)?)"
    rb"|0x(?P<hex>[0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)(?:p(?P<power>[+-]?\d+))?"
    rb"|(?P<digits>\d+\.?\d*|\.\d+)(?:e(?P<exponent>[+-]?\d+))?)\Z",
    re.IGNORECASE,
).match

LongDouble = tuple[int, int]


def read(text: bytes) -> LongDouble | None:
    """The value nearest to a decimal or hexadecimal number; None for what is no number, or out of range."""
    found = _FORM(text) if len(text) <= TEXT_BYTES_MAX else None
    if found is None:
        return None
    if found["infinite"]:
        return INFINITE
    if found["hex"]:
        whole, _, part = found["hex"].partition(b".")
        mantissa = int(whole + part, 16)
        power = _bounded(found["power"]) - 4 * len(part)
        magnitude = mantissa.bit_length() + power
        if mantissa and not _EXPONENT_MIN - _DIGITS < magnitude <= _MAGNITUDE_MAX:
            return None
        ratio = (mantissa << power, 1) if power >= 0 and mantissa else (mantissa, 1 << max(0, -power))
    else:
        _, digits, places = Decimal(found["digits"].decode()).as_tuple()
        number = Decimal((0, digits, int(places) + _bounded(found["exponent"])))
        if number and not -2 * _DIGITS < number.adjusted() < _DIGITS:
            return None
        ratio = number.as_integer_ratio() if number else (0, 1)
    value = _nearest(*ratio)
    if value == INFINITE or (ratio[0] and not value[0]):
        return None
    return (-value[0], value[1]) if found[1] == b"-" else value


def add(one: LongDouble, other: LongDouble) -> LongDouble | None:
    """The sum; None when it is infinite or no number."""
    if INFINITE in (one, other):
        return None
    low = min(one[1], other[1])
    exact = (one[0] << one[1] - low) + (other[0] << other[1] - low)
    value = _nearest(abs(exact) << max(0, low), 1 << max(0, -low))
    if value == INFINITE:
        return None
    return (-value[0], value[1]) if exact < 0 else value


def text(value: LongDouble) -> bytes:
    """The value with up to 17 decimal places, without zeros at the end."""
    mantissa, exponent = value
    if exponent >= 0:
        return str(Decimal(mantissa << exponent)).encode()
    scaled = _divide(abs(mantissa) * 10**_PLACES, 1 << -exponent)
    digits = str(Decimal(scaled)).zfill(_PLACES + 1)
    number = f"{digits[:-_PLACES]}.{digits[-_PLACES:]}".rstrip("0").rstrip(".")
    return ("-" + number if mantissa < 0 and number != "0" else number).encode()


def _bounded(exponent: bytes | None) -> int:
    """An exponent; what is far out of range in any case is cut, so that nobody computes with it."""
    if not exponent:
        return 0
    digits = exponent.lstrip(b"+-").lstrip(b"0")[:7] or b"0"
    return -int(digits) if exponent.startswith(b"-") else int(digits)


def _nearest(numerator: int, denominator: int) -> LongDouble:
    """The value nearest to a fraction that is not negative; halves go to the even one."""
    if not numerator:
        return 0, 0
    shift = _MANTISSA_BITS + denominator.bit_length() - numerator.bit_length()
    if (numerator << max(0, shift)) // (denominator << max(0, -shift)) >> _MANTISSA_BITS:
        shift -= 1
    shift = min(shift, -_EXPONENT_MIN)
    mantissa = _divide(numerator << max(0, shift), denominator << max(0, -shift))
    if mantissa.bit_length() - shift > _MAGNITUDE_MAX:
        return INFINITE
    return mantissa, -shift


def _divide(numerator: int, denominator: int) -> int:
    """A quotient rounded to the nearest integer; halves go to the even one."""
    quotient, rest = divmod(numerator, denominator)
    return quotient + (2 * rest > denominator or (2 * rest == denominator and quotient % 2))
