"""Numbers as a reader should see them: a true minus sign, digits that their error allows."""

from __future__ import annotations

import math
from typing import SupportsFloat

__all__ = ["DASH", "decimals", "error", "plain", "share", "significant"]

DASH = "–"


def plain(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """A number with a fixed count of decimals; a dash for what is not there.

    >>> plain(-1234.5), plain(None), plain(0.25, 1, sign=True)
    ('−1,234.50', '–', '+0.2')
    """
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    return text.replace("-", "−")


def significant(value: float | None, digits: int = 3) -> str:
    """A number with a fixed count of significant digits.

    >>> significant(-0.012345), significant(123456.0)
    ('−0.0123', '123,456')
    """
    if value is None or not math.isfinite(value):
        return plain(value)
    if value and not 1e-4 <= abs(value) < 1e7:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    places = 0 if not value else digits - 1 - math.floor(math.log10(abs(value)))
    text = plain(value, max(0, places))
    return text.rstrip("0").rstrip(".") if "." in text else text


def decimals(stderr: float) -> int:
    """Decimals that a number with this standard error deserves, at least 2, at most 6.

    >>> decimals(0.5), decimals(0.0031), decimals(float("nan"))
    (2, 4, 2)
    """
    if not math.isfinite(stderr) or stderr >= 0.01 or stderr <= 0:
        return 2
    return min(6, 1 - math.floor(math.log10(stderr)))


def error(stderr: float | None) -> str:
    """A standard error with its sign.

    >>> error(0.273), error(0.0031), error(None)
    ('± 0.27', '± 0.0031', '–')
    """
    if stderr is None or math.isnan(stderr):
        return DASH
    if 0 < stderr < 1e-6:
        return "± <1e−6"
    return f"± {plain(stderr, decimals(stderr))}"


def share(value: SupportsFloat) -> str:
    """A share in percent: in tenths near 0 and 1, which are said of none and of all alone.

    >>> share(0.973), share(0.0042), share(0.0), share(0.9999)
    ('97 %', '0.4 %', '0 %', '>99.9 %')
    """
    percent = 100 * float(value)
    if 0 < percent < 0.1 or 99.9 < percent < 100:
        return "<0.1 %" if percent < 1 else ">99.9 %"
    return f"{plain(percent, 1 if 0 < percent < 1 or 99 < percent < 100 else 0)} %"
