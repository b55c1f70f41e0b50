"""Untrusted text, and numbers, as a reader sees them."""

from __future__ import annotations

import math
import re
import textwrap

MINUS = "\N{MINUS SIGN}"


def printable(text: str) -> str:
    """Return text without control characters: model output must not steer the terminal.

    Example:
        >>> printable("a\\x1b[31mb")
        'a\\\\x1b[31mb'
    """
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)


def escaped(text: str) -> str:
    """Return text on one line without control characters.

    Example:
        >>> escaped("a\\nb")
        'a\\\\nb'
    """
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def quoted(text: str, limit: int = 60) -> str:
    """Return a text in quotes on one line, cut when long, control characters escaped."""
    return f'"{escaped(text if len(text) <= limit else text[: limit - 1] + "…")}"'


def wrapped(beginning: str, text: str, width: int) -> list[str]:
    """Return a text in lines that keep to the width, all but the first indented below its beginning.

    Example:
        >>> wrapped("why  ", "it is not the gold", 15)
        ['why  it is not', '     the gold']
    """
    indent = " " * len(beginning)
    lines = textwrap.wrap(text, width, initial_indent=beginning, subsequent_indent=indent, break_on_hyphens=False)
    return lines or [beginning.rstrip()]


def signed(value: float, decimals: int = 2) -> str:
    """Return a number with its sign, "+0.35" or "−1.20", and 0 without.

    Example:
        >>> signed(15.25, 1), signed(-0.5), signed(-0.001)
        ('+15.2', '−0.50', '0.00')
    """
    rounded = round(value, decimals) + 0.0
    return f"{rounded:+.{decimals}f}".replace("-", MINUS) if rounded else f"{0:.{decimals}f}"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, a true minus sign and no needless zeros; a dash for none.

    Example:
        >>> number(1234.6), number(0.0000123), number(-0.5), number(float("nan"))
        ('1,235', '1.23e−5', '−0.5', '–')
    """
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", MINUS)
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    text = f"{value:,.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", MINUS)


def duration(seconds: float) -> str:
    """Return a time span in its two largest units.

    Example:
        >>> duration(42.4), duration(200), duration(7300)
        ('42 s', '3 min 20 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def gigabytes(num_bytes: float) -> str:
    """Return a size, 1 GB being 10^9 bytes.

    Example:
        >>> gigabytes(3_200_000), gigabytes(14_000_000_000)
        ('3.2 MB', '14.0 GB')
    """
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.1f} GB"


def with_inside(page: str, begin: str, end: str, inside: str) -> str:
    """Return a page with what stands between its two marks replaced.

    Raises: ValueError when the page has not exactly one pair of marks.

    Example:
        >>> with_inside("a <b> old <e> c", "<b>", "<e>", "new")
        'a <b>\\n\\nnew\\n\\n<e> c'
    """
    marked = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
    if len(marked.findall(page)) != 1:
        raise ValueError(f"the page needs {begin} and {end} once each")
    return marked.sub(lambda _: f"{begin}\n\n{inside}\n\n{end}", page)
