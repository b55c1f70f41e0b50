"""How large a LaTeX expression would become, from one walk along its text that computes nothing but sizes.

sympy may take hours over ten characters, so a tower of powers has to be told from a number before sympy sees it. The
walk reads LaTeX as tolerantly as it can, and where it is in doubt takes the larger reading: what it does not know (a
command, a bracket without its partner) counts as a factor, never as nothing.
"""

from __future__ import annotations

import re
from dataclasses import replace

from mathgrpo.answers.latex_size import (
    ONE,
    Refused,
    Size,
    choice_size,
    factorial_size,
    number_size,
    power_size,
    product_size,
    quotient_size,
    root_size,
    sum_size,
)

MAX_DEPTH = 15
"""Brackets, arguments and exponents inside each other."""

_NUMBER = (
    r"(?:[0-9]+(?:(?:,|\{,\}|(?:\\[,!; ]|\s)+)[0-9]{3}(?![0-9]))*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+(?![0-9]))?"
)
_TOKEN = re.compile(rf"{_NUMBER}|\\+[A-Za-z]+|\\.|\*\*|\S", re.ASCII)
_NAMED = re.compile(r"\\(?:operatorname\*?|mathrm|mathop|text|mbox)\s*\{\s*\\?([A-Za-z]+)\s*\}")
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_RAISED_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")


def _commands(names: str) -> frozenset[str]:
    return frozenset("\\" + name for name in names.split())


_IGNORED = frozenset("$~") | _commands(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr middle mleft mright displaystyle "
    "textstyle limits nolimits mathstrut quad qquad circ degree prime , ! ; : > % $"
)
_OPEN = frozenset("([{") | _commands("{ lfloor lceil lvert lVert langle lbrace lbrack lparen")
_CLOSE = frozenset(")]}") | _commands("} rfloor rceil rvert rVert rangle rbrace rbrack rparen")
_APART = frozenset("+-,=<>;&?±−–≤≥≠∪∩") | _commands(
    "\\ pm mp le leq ge geq ne neq leqslant geqslant in notin cup cap setminus approx equiv to mid land lor wedge vee"
)
_SIGNS = frozenset("+-±−–") | _commands("pm mp")
_TIMES = frozenset("*×·") | _commands("cdot times ast")
_OVER = frozenset("/:÷") | _commands("div")
_POWER = frozenset(("^", "**"))
_INFIX = _commands("over atop choose")
_FRACTION = _commands("frac dfrac tfrac cfrac")
_CHOICE = _commands("binom dbinom tbinom")
_GAMMA = frozenset("Γ") | _commands("Gamma")
_EXPONENTIAL = _commands("exp sinh cosh tanh coth csch sech")
_COMPUTED = frozenset("∑∏∫") | _commands("sum prod coprod int iint iiint oint lim limsup liminf bigcup bigcap")
_CODE = _commands("input include def gdef edef xdef let newcommand renewcommand catcode csname write immediate")


def too_large(text: str) -> str | None:
    """Return what an expression has too much of to be worked out, None when it is of a final answer's size.

    Example:
        >>> too_large("10^{\\\\left(10^{10}\\\\right)}"), too_large("2^{100}")
        ('an exponent that makes a number of more than 6000 digits', None)
    """
    try:
        _Walk(text).whole()
    except Refused as found:
        return str(found)
    return None


class _Walk:
    """One pass from the left to the right; `place` is the next token, `depth` what it is inside of."""

    def __init__(self, text: str) -> None:
        text = _NAMED.sub(r"\\\1 ", _RAISED_RUN.sub(lambda run: f"^{{{run[0].translate(_RAISED)}}}", text))
        self.tokens = _tokens(text)
        self.place = self.depth = 0
        self.bars = False

    def whole(self) -> Size:
        size = self.beside()
        while self.place < len(self.tokens):  # a bracket that nothing opened
            self.place += 1
            size = self.postfixes(product_size(size, self.beside()))
        return size

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def ends(self, token: str) -> bool:
        return not token or token in _CLOSE or token == "\\end" or (self.bars and token == "|")

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Refused(f"brackets or exponents more than {MAX_DEPTH} deep")

    def beside(self) -> Size:
        """Everything up to a closing bracket: sums, and lists, equations and rows, which count as sums."""
        total: Size | None = None
        while not self.ends(token := self.peek()):
            if token in _APART:
                self.place += 1
            elif token in _INFIX:
                self.place += 1
                self.deeper()
                total = (choice_size if token == "\\choose" else quotient_size)(total or ONE, self.beside())
                self.depth -= 1
            else:
                product = self.product()
                total = product if total is None else sum_size(total, product)
        return total or ONE

    def product(self) -> Size:
        done, last, join = ONE, ONE, product_size
        while not (self.ends(token := self.peek()) or token in _APART or token in _INFIX):
            if token in _TIMES or token in _OVER:
                self.place += 1
                done, last, join = join(done, last), ONE, quotient_size if token in _OVER else product_size
            elif token in _POWER or token in "!_":
                last = self.postfixes(last)
            else:
                done = join(done, last)
                join = product_size if last is not ONE else join
                last = self.postfixes(self.atom())
        return join(done, last)

    def postfixes(self, base: Size) -> Size:
        """A factor with its powers, factorials and what stands below it."""
        while token := self.peek():
            after_bracket = self.place > 0 and self.tokens[self.place - 1] == ")"
            if token in _POWER:
                self.place += 1
                exponent = self.exponent()
                base = power_size(base, exponent)
                if self.peek() == "!":
                    factorial_size(exponent)
            elif token == "!":
                self.place += 1
                base = factorial_size(base)
            elif token == "_":
                self.place += 1
                below = self.argument()
                if after_bracket and not base.atoms:  # math-verify reads a falling factorial
                    base = product_size(factorial_size(base), below)
            else:
                break
        return base

    def exponent(self) -> Size:
        """What stands behind "^", with the powers upon it."""
        self.deeper()
        size = self.argument(split=False)
        while self.peek() in _POWER:
            self.place += 1
            size = power_size(size, self.exponent())
        self.depth -= 1
        return size

    def argument(self, *, split: bool = True) -> Size:
        """What a command applies to: a group, a digit (split: also of a longer number), a symbol, another command."""
        while self.peek() in _SIGNS:
            self.place += 1
        token = self.peek()
        if split and token.isdigit() and len(token) > 1:  # \frac12 has the arguments 1 and 2
            self.tokens[self.place] = token[1:]
            return number_size(token[0])
        return self.atom()

    def atom(self) -> Size:
        token = self.peek()
        if self.ends(token):
            return ONE
        if token in _OPEN or token == "|":
            return self.group()
        self.place += 1
        if token[0] in "0123456789.":
            return number_size(token)
        if token in _COMPUTED:
            raise Refused("a sum, product, integral or limit left to compute")
        if token in _CODE:
            raise Refused("a command that no LaTeX answer has")
        self.deeper()
        size = self.command(token, self.place)
        self.depth -= 1
        return size

    def command(self, name: str, start: int) -> Size:
        """What a command comes to with its arguments; of one that is not known here, a symbol."""
        if name in _FRACTION:
            return quotient_size(self.argument(), self.argument())
        if name in _CHOICE:
            return choice_size(self.argument(), self.argument())
        if name in _GAMMA:
            return factorial_size(self.argument())
        if name in _EXPONENTIAL:
            return power_size(Size(0.44, 0.43, 0.44, atoms=frozenset("e"), degree=1), self.argument())
        if name in ("\\sqrt", "√"):
            order, radicand = self.group() if self.peek() == "[" else ONE, self.argument()
            return root_size(order, radicand, "".join(self.tokens[start : self.place]))
        if name == "\\begin":
            return self.environment()
        return Size(degree=1.0, atoms=frozenset([name]))

    def group(self) -> Size:
        """What stands between brackets. A round one is closed by a square one too, a brace only by a brace."""
        opening = self.tokens[self.place]
        self.place += 1
        self.deeper()
        outside, self.bars = self.bars, opening == "|"
        size = self.beside()
        while opening == "{" and self.peek() not in ("}", ""):  # a closing bracket that nothing opened
            self.place += 1
            size = self.postfixes(product_size(size, self.beside()))
        if self.peek() != "}" or opening == "{":
            self.place += self.peek() in _CLOSE or self.peek() == "|"
        self.bars = outside
        self.depth -= 1
        return size

    def environment(self) -> Size:
        """What stands between \\begin{name} and \\end{name}."""
        is_matrix = "".join(self.tokens[self.place : self.place + 9]).endswith(("matrix}", "array}"))
        self.group()
        start = self.place
        size = self.beside()
        rows = 1 + sum(token == "\\\\" for token in self.tokens[start : self.place])
        if self.peek() == "\\end":
            self.place += 1
            self.group() if self.peek() == "{" else None
        return replace(size, rows=rows) if is_matrix else size


def _tokens(text: str) -> list[str]:
    """Return the tokens that count, empty groups taken out: in "10{}^{9}" the power is of 10."""
    tokens: list[str] = []
    for token in _TOKEN.findall(text):
        if token[0] == "\\" and token[-1].isalpha():
            token = "\\" + token.lstrip("\\")  # math-verify takes "\\frac" for "\frac"
        if token in _IGNORED or token == ".":
            continue
        if token == "}" and tokens and tokens[-1] == "{":
            tokens.pop()
        else:
            tokens.append(token)
    return tokens
