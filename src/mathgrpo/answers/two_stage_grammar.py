"""math-verify's grammar in two stages: read the simple way first, the full way only where that does not succeed.

A reading in ANTLR's SLL mode that meets no error is the one that its LL mode gives, which is the default and takes two
to five times as long (Parr, Harwell and Fisher 2014, "Adaptive LL(*) parsing", section 7; ANTLR's own advice).
"""

from __future__ import annotations

from typing import Any


def read_in_two_stages() -> bool:
    """Make latex2sympy read so, in this process; return False where its parts are not known, and nothing is changed."""
    try:
        from antlr4.atn.PredictionMode import PredictionMode
        from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy

        make_parser, read = _Latex2Sympy.create_parser, _Latex2Sympy.parse
    except (ImportError, AttributeError):
        return False

    def create_parser(self: Any, text: str) -> Any:
        parser = make_parser(self, text)
        parser._interp.predictionMode = self.stage
        return parser

    def parse(self: Any, text: str) -> Any:
        self.stage = PredictionMode.SLL
        try:
            return read(self, text)
        except Exception:
            self.stage = PredictionMode.LL
            return read(self, text)

    _Latex2Sympy.create_parser, _Latex2Sympy.parse = create_parser, parse
    return True
