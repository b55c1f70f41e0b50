from __future__ import annotations

import math
import re
import time
from pathlib import Path

import mathgrpo
from mathgrpo.report.safe_text import brief, clean, percent, shorten
from mathgrpo.text import duration, number, signed


def test_clean_leaves_only_what_can_be_seen() -> None:
    assert clean("\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07 \x9b7\x00\x08") == "red link 7"
    assert clean("a\r\nb\tc\rd") == "a\nb\tcd"
    assert clean("7\u202e8\u200b\u2066") == "78" and clean("\ud800") == "\ufffd"
    assert clean("5 × 3 = 15 é 🎉 数") == "5 × 3 = 15 é 🎉 数"


def test_shorten_keeps_both_ends_and_says_how_much_is_missing() -> None:
    text = "a" * 1600 + "b" * 997_996 + "answer 7" + "c" * 396
    shown = shorten(text)
    assert shown.startswith("a" * 1600 + "\n[… 998,000 characters left out …]\n") and shown.endswith(
        "r 7" + "c" * 396 + ""
    )
    assert shorten("short") == "short" and shorten("x" * 10, head=4, tail=0) == "xxxx\n[… 6 characters left out …]\n"


def test_cleaning_costs_no_more_for_a_million_characters_than_is_shown() -> None:
    start = time.perf_counter()
    for text in ("\x1b[" * 500_000, "\x1b]" * 500_000, "\x00" * 1_000_000):
        shorten(text)
        brief(text)
    assert time.perf_counter() - start < 5.0


def test_brief_is_one_line() -> None:
    assert brief("a\n b", 10) == "a b" and brief("abcdefghij", 5) == "abcd…" and brief("x" * 10**6, 5) == "xxxx…"


def test_numbers_for_readers() -> None:
    assert [number(x) for x in (0, 1.0, 0.788123, 1234.6, -0.5, 1e-4, 2.5e7)] == [
        "0",
        "1",
        "0.788",
        "1,235",
        "\N{MINUS SIGN}0.5",
        "1e\N{MINUS SIGN}4",
        "2.5e7",
    ]
    assert number(100.0) == "100" and number(math.nan) == "–" == percent(math.inf)
    assert percent(0.638) == "63.8\N{NO-BREAK SPACE}%"
    assert [signed(x) for x in (1.256, -0.75, -0.001)] == ["+1.26", "\N{MINUS SIGN}0.75", "0.00"]
    assert [duration(s) for s in (12.34, 400, 7500)] == ["12 s", "6 min 40 s", "2 h 05 min"]


def test_no_reader_meets_a_share_or_a_size_with_an_exponent() -> None:
    """f"{100:.2g}" is "1e+02": what a reader is shown goes through `number`; a setting stands as it can be written."""
    written = {"sweep/run_sweep.py", "publishing/card.py", "update/updater.py", "update/attention/kernel_choice.py"}
    written |= {"update/sampler_check.py"}  # may have to say nan
    source = Path(mathgrpo.__file__).parent
    found = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if re.search(r"\{[^{}]*:,?\.\d+[ge]\}", path.read_text(encoding="utf-8"))
    }
    assert found <= written | {"text.py"}
