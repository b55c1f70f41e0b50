"""One way of writing for every answer: markdown, dollars, phrases, Unicode and the variants of LaTeX are taken off.

What comes out is LaTeX of few words: \\frac{a}{b}, \\sqrt{a}, \\text{a}, plain brackets, "-" for every minus, "°" for
degrees, "," only where it separates. Linear in the length of the text.
"""

from __future__ import annotations

import re

MAX_CHARS = 600

_UNICODE = str.maketrans({
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "×": "\\times ", "⋅": "\\cdot ", "·": "\\cdot ",
    "÷": "/", "∕": "/", "⁄": "/", "π": "\\pi ", "∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ",
    "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "±": "\\pm ", "∅": "\\emptyset ", "θ": "\\theta ", "α": "\\alpha ",
    "β": "\\beta ", "λ": "\\lambda ", "φ": "\\phi ", "ω": "\\omega ", "ℝ": "\\mathbb{R}", "º": "°", "˚": "°",
    "\u00a0": " ", "\u202f": " ", "\u2009": " ", "“": '"', "”": '"', "’": "'", "′": "'", "∶": ":",
})  # fmt: skip
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
           "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}  # fmt: skip
_SMALL = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺₀₁₂₃₄₅₆₇₈₉", "0123456789-+0123456789")

_WRAPPERS = (("```", "```"), ("**", "**"), ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("`", "`"))
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}", re.DOTALL)
_SAID = re.compile(
    r"(?:so|thus|hence|therefore)?,? ?(?:the |my )?(?:final |correct )?answer"
    r"(?: is|:| =|=)(?: that| option| choice)?:? ?",
    re.IGNORECASE,
)
_ORDER = (
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\s*\.?(?=[\s()\[\]|{}\\<>/.]|$)"), ""),
    (re.compile(r"\\(?:displaystyle|textstyle|rm|bf|it|(?:no)?limits|(?:phantom|hspace)\{[^{}]*\})(?![a-zA-Z])"), " "),
    (re.compile(r"\\[dtc]?frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![a-zA-Z])"), r"\\binom"),
    (re.compile(r"\\(?:text(?:bf|rm|it|normal|tt|sf|sc|up)?|math(?:rm|bf|it|sf|tt)|[mh]box|emph)\s*(?=\{)"), r"\\text"),
    (re.compile(r"(?<![0-9})\s])\\text\{\s*([A-Za-z])\s*\}(?![A-Za-z^²³])"), r" \1"),
    (re.compile(r"\\text\{\s*(?:\\%|%)\s*\}"), r"\\%"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\(?:degree|textdegree)(?![a-zA-Z])|\^\s*\{?°\}?"), "°"),
    (re.compile(r"\\(?:l|le)vert(?![a-zA-Z])|\\r?vert(?![a-zA-Z])|\\mid(?![a-zA-Z])"), "|"),
    (re.compile(r"\\(leq|geq|neq|leqslant|geqslant)(?![a-zA-Z])"), lambda m: "\\" + m[1][:2] + " "),
    (re.compile(r"\\(?:lt|textless)(?![a-zA-Z])"), "<"),
    (re.compile(r"\\(?:gt|textgreater)(?![a-zA-Z])"), ">"),
    (re.compile(r"\\varnothing(?![a-zA-Z])"), r"\\emptyset"),
    (re.compile(r"\\(?:lbrace|\{)"), r"\\{"),
    (re.compile(r"\\(?:rbrace|\})"), r"\\}"),
    (re.compile(r"\\(?:langle|rangle)(?![a-zA-Z])"), lambda m: "(" if m[0][1] == "l" else ")"),
    (re.compile(r"\\(?:lbrack|rbrack)(?![a-zA-Z])"), lambda m: "[" if m[0][1] == "l" else "]"),
    (re.compile(r"\\operatorname\s*\{([a-zA-Z]+)\}"), r"\\\1 "),
    (re.compile(r"\\(sin|cos|tan)\s*\^\s*\{\s*-\s*1\s*\}"), r"\\arc\1 "),
    (re.compile(r"(?<=[0-9])(?:\{,\}|,?\s*\\!\s*,?\s*|,\s*\\!\s*)(?=[0-9]{3}(?![0-9]))"), ""),
    (re.compile(r"(?<=[0-9])\\[,;: ]\s*(?=[0-9]{3}(?![0-9]))"), ""),
    (re.compile(r"(?:\s*/?\s*\\text\{\s*\})+\s*$|\\text\{\s*\}|\\!|\{\}"), ""),
    (re.compile(r"\\[,;:> ]|\\q?quad(?![a-zA-Z])|\\(?:thinspace|medspace|enspace|nobreakspace)(?![a-zA-Z])|~"), " "),
    (re.compile(r"\\(?:pounds|textsterling)(?![a-zA-Z])"), "£"),
    (re.compile(r"\\(?:euro|texteuro)(?![a-zA-Z])"), "€"),
    (re.compile(r"\\\$"), "$"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\(?:dots|cdots|ldots)(?![a-zA-Z])"), r"\\ldots"),
)  # fmt: skip
"""Patterns and what takes their place, in order; none looks back further than one character."""

_ROW = "\x1e"
_LETTERS = re.compile(r"\\[a-zA-Z]+")
_REPEATING = re.compile(
    r"([0-9]*)\.([0-9]{0,30})(?:\\(?:overline|bar)\s*\{?([0-9]{1,30})\}?|\\dot\s*\{?([0-9])\}?)", re.ASCII
)
_GOES_ON = re.compile(
    r"(?<![0-9.])([0-9]*)\.([0-9]{0,30}?)(([0-9])\4{2,30})\s*(?:\.\.\.|…|\\[cl]?dots)(?![0-9.])", re.ASCII
)
"""A decimal whose last digit stands three times before an ellipsis goes on with it."""
# In LaTeX x^10 is x^1 followed by 0; people who write it mean the power.
_LONG_EXPONENT = re.compile(r"\^\s*(-\s*[0-9]+|[0-9]{2,})", re.ASCII)
_OVER = re.compile(r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}")


def canonical(text: str, *, phrases: bool = True) -> str | None:
    """Return an answer in the one way of writing, None when it is too long for an answer.

    Args:
        phrases: "the answer is" and "=" before it are taken off.

    Example:
        >>> canonical("**$\\\\dfrac12$.**"), canonical("The answer is −½"), canonical("\\\\left(1, 2\\\\right]")
        ('\\\\frac{1}{2}', '-\\\\frac{1}{2}', '(1, 2]')
    """
    text = text.strip()
    if len(text) > MAX_CHARS:
        return None
    text = " ".join(undressed(text, phrases=phrases).split())
    text = _LONG_EXPONENT.sub(r"^{\1}", _GOES_ON.sub(r"\1.\2\\overline{\4}", _unicode(text)))
    if "\\" in text or "{" in text:
        text = _latex(text.replace("\\\\", _ROW)).replace(_ROW, "\\\\")
    if text.startswith("$") and text.endswith("$") and text.count("$") % 2 == 0 and not text[1:2].isspace():
        text = text.replace("$", "")
    text = re.sub(r"^(?:minus|negative) (?=[0-9.\\$£€(])", "-", " ".join(text.split()), flags=re.IGNORECASE)
    return re.sub(r"^([+-]) (?=[0-9.\\$(])", r"\1", text)


def undressed(text: str, *, phrases: bool = True) -> str:
    """Return a text without wrappers, the phrase before an answer, and the full stop at its end.

    Example:
        >>> undressed("So the answer is **$\\\\boxed{18}$**.")
        '18'
    """
    for _ in range(6):
        before = text
        text = unwrap(text).strip()
        said = _SAID.match(text) if phrases else None
        if said and said.end() < len(text):
            text = text[said.end() :].lstrip(": ")
        if phrases and text[:1] == "=" and text[1:2] not in ("", "="):
            text = text[1:].strip()
        if text.endswith(".") and not text.endswith("..") and not _abbreviated(text):
            text = text[:-1].rstrip()
        if text == before:
            break
    return text


def _abbreviated(text: str) -> bool:
    return re.search(r"(?:^|[\s0-9{])[ap]\.m\.$", text, re.IGNORECASE) is not None


def unwrap(text: str) -> str:
    """Return what one wrapper holds: \\boxed{18} -> 18, **18** -> 18, $18$ -> 18."""
    bare = text.removesuffix(".").rstrip()
    boxed = _BOXED.fullmatch(bare)
    if boxed and _closes_at_end(boxed[1]):
        return boxed[1]
    for opening, closing in _WRAPPERS:
        stopped = bare if text.startswith(opening) and not text.endswith(closing) else text
        inner = stopped[len(opening) : -len(closing)]
        wrapped = stopped.startswith(opening) and stopped.endswith(closing) and len(stopped) > len(opening + closing)
        if wrapped and opening not in inner.replace("\\$", ""):
            return inner
    return text


def _closes_at_end(inner: str) -> bool:
    depth = 0
    for character in inner.replace("\\{", "").replace("\\}", ""):
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def _unicode(text: str) -> str:
    if text.isascii():
        return text
    for sign, fraction in _VULGAR.items():
        if sign in text:
            upper, lower = fraction.split("/")
            text = text.replace(sign, f"\\frac{{{upper}}}{{{lower}}}")
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda m: f"^{{{m[0].translate(_SMALL)}}}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", lambda m: f"_{{{m[0].translate(_SMALL)}}}", text)
    text = re.sub(r"([√∛])\s*(\(|[0-9]+(?:\.[0-9]+)?|[A-Za-zπ])", _root, text)
    return text.translate(_UNICODE)


def _root(match: re.Match[str]) -> str:
    order = "" if match[1] == "√" else "[3]"
    return f"\\sqrt{order}{{{match[2]}}}" if match[2] != "(" else f"\\sqrt{order}("


def _latex(text: str) -> str:
    for pattern, replacement in _ORDER:
        text = pattern.sub(replacement, text)
    for _ in range(4):
        text, changed = _OVER.subn(r"\\frac{\1}{\2}", text)
        if not changed:
            break
    if text.count("\\over ") == 1 and "{" not in text.split("\\over ")[0].rsplit("\\", 1)[-1]:
        upper, lower = text.split("\\over ")
        text = f"\\frac{{{upper.strip()}}}{{{lower.strip()}}}"
    return _REPEATING.sub(_fraction_of, _with_braces(text))


def _fraction_of(match: re.Match[str]) -> str:
    """Return a repeating decimal as a fraction: 0.1\\overline{6} -> \\frac{15}{90}."""
    whole, fixed, period = match[1] or "0", match[2], match[3] or match[4]
    under = 10 ** len(fixed) * (10 ** len(period) - 1)
    over = int(whole + fixed + period) - int(whole + fixed)
    return f"\\frac{{{over}}}{{{under}}}"


_ARGUMENTS = {"\\frac": 2, "\\binom": 2, "\\sqrt": 1}


def _with_braces(text: str) -> str:
    """Return the text with braces around each argument of \\frac, \\binom and \\sqrt: \\frac 1{2} -> \\frac{1}{2}."""
    pieces: list[str] = []
    place = 0
    while place < len(text):
        command = _LETTERS.match(text, place)
        if command and command[0] in _ARGUMENTS:
            piece, place = _command(text, command)
        else:
            piece = command[0] if command else text[place]
            place += len(piece)
        pieces.append(piece)
    return "".join(pieces)


def _command(text: str, command: re.Match[str]) -> tuple[str, int]:
    """Return a command with its arguments in braces, and where it ends."""
    pieces, place = [command[0]], command.end()
    for number in range(_ARGUMENTS[command[0]]):
        while text[place : place + 1] == " ":
            place += 1
        if number == 0 and command[0] == "\\sqrt" and text[place : place + 1] == "[" and "]" in text[place:]:
            end = text.index("]", place) + 1
            pieces.append(text[place:end])
            place = end + (text[end : end + 1] == " ")
        if text[place : place + 1] == "{":
            end = _closing(text, place)
            pieces.append("{" + _with_braces(text[place + 1 : end]) + text[end : end + 1])
            place = end + 1
            continue
        if command[0] == "\\sqrt" and text[place : place + 1] == "(" and ")" in text[place:]:
            end = _closing(text, place, "()")
            pieces.append("{" + _with_braces(text[place + 1 : end]) + "}")
            place = end + 1
            continue
        inner = _LETTERS.match(text, place)
        if inner and inner[0] in _ARGUMENTS:
            piece, place = _command(text, inner)
        else:
            piece = inner[0] if inner else text[place : place + 1]
            place += len(piece)
        pieces.append(f"{{{piece}}}")
    return "".join(pieces), place


def _closing(text: str, place: int, brackets: str = "{}") -> int:
    """Return where the bracket that opens at a place closes; the end of the text when it does not."""
    depth = 0
    for index in range(place, len(text)):
        depth += (text[index] == brackets[0]) - (text[index] == brackets[1])
        if depth == 0:
            return index
    return len(text)
