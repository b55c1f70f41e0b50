"""What may stand behind a number: a table of real units and scale words, and when any other word is a unit.

A unit is known as one (this table), or it stands in the gold or in the question; with neither at hand it must be a
plural noun. Words that hedge, deny or compute make a phrase no unit. Two units of one kind are converted exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache

Unit = Mapping[str, tuple[int, Fraction]]
"""Base ("length", "dollar", "egg") -> its power and what one is worth: cm^2 is {"length": (2, 1/10000)}."""

MAX_UNIT_CHARS = 60
PERCENT: Unit = {"%": (1, Fraction(1, 100))}

_TABLE = """
length 1 m meter meters metre metres
length 1/100 cm centimeter centimeters centimetre centimetres
length 1/1000 mm millimeter millimeters millimetre millimetres
length 1000 km kilometer kilometers kilometre kilometres kms
length 127/5000 in in. inch inches
length 381/1250 ft ft. foot feet
length 1143/1250 yd yd. yds yard yards
length 201168/125 mi mi. mile miles
mass 1 g gm gram grams
mass 1/1000 mg milligram milligrams
mass 1000 kg kgs kilogram kilograms kilo kilos
mass 1000000 tonne tonnes
pound 1 lb lb. lbs lbs.
pound 1/16 oz oz. ounce ounces
ton 1 ton tons
pound 1 pound pounds £ gbp quid
pound 1/100 pence
time 1 s sec sec. secs second seconds
time 60 min min. mins minute minutes
time 3600 h hr hr. hrs hour hours
time 86400 day days
time 604800 week weeks wk wks
year 1/12 month months mo
year 1 year years yr yr. yrs
volume 1/1000 l liter liters litre litres
volume 1/1000000 ml milliliter milliliters millilitre millilitres
cup 1 cup cups
cup 2 pint pints
cup 4 quart quarts
cup 16 gal gallon gallons
area 10000 hectare hectares
acre 1 acre acres
dollar 1 $ dollar dollars usd buck bucks us$
dollar 1/100 cent cents ¢ penny pennies
euro 1 € euro euros eur
yen 1 ¥ yen jpy
yuan 1 yuan rmb cny
rupee 1 ₹ rupee rupees rs rs. inr
peso 1 peso pesos
franc 1 franc francs chf
degree 1 ° degree degrees deg
radian 1 rad radian radians
celsius 1 celsius °c c
fahrenheit 1 fahrenheit °f f
kelvin 1 k kelvin kelvins
volt 1 v volt volts
watt 1 w watt watts
watt 1000 kw kilowatt kilowatts
joule 1 j joule joules
newton 1 n newton newtons
ohm 1 ohm ohms Ω
a.m. 1 a.m. am a.m
p.m. 1 p.m. pm p.m
item 1 item items unit units
time-count 1 times
"""


def _table() -> dict[str, tuple[str, int, Fraction]]:
    found: dict[str, tuple[str, int, Fraction]] = {}
    for line in _TABLE.strip().splitlines():
        base, worth, *names = line.split()
        power = {"volume": 3, "area": 2}.get(base, 1)
        found |= {name: ("length" if power > 1 else base, power, Fraction(worth)) for name in names}
    return found


_KNOWN = _table()
_BASES = frozenset(base for base, _, _ in _KNOWN.values()) - {"item", "time-count"}
_SPEEDS = {"mph": "miles per hour", "kph": "km per hour", "kmh": "km per hour", "kmph": "km per hour"}
_CASED = {"L": "l", "C": "c", "F": "f", "K": "k", "W": "w", "V": "v", "J": "j", "N": "n"}
"""Single letters are units in this case only: 5 n, 5 v, 5 c are more often variables."""

# fmt: off
SCALES: dict[str, Fraction] = {name: Fraction(worth) for names, worth in (
    (("hundred", "hundreds"), 100), (("thousand", "thousands"), 1000), (("million", "millions"), 10**6),
    (("billion", "billions"), 10**9), (("trillion", "trillions"), 10**12), (("dozen", "dozens"), 12), (("gross",), 144),
    (("lakh", "lakhs", "lac"), 10**5), (("crore", "crores"), 10**7), (("half", "halves"), Fraction(1, 2)),
    (("third", "thirds"), Fraction(1, 3)), (("fourth", "fourths", "quarter", "quarters"), Fraction(1, 4)),
    (("fifth", "fifths"), Fraction(1, 5)), (("sixth", "sixths"), Fraction(1, 6)),
    (("eighth", "eighths"), Fraction(1, 8)), (("tenth", "tenths"), Fraction(1, 10)),
    (("hundredth", "hundredths"), Fraction(1, 100)), (("thousandth", "thousandths"), Fraction(1, 1000)),
) for name in names}
"""Words that scale the number before them."""
NUMBER_WORDS = frozenset((
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty",
    "fifty", "sixty", "seventy", "eighty", "ninety", *SCALES,
))
_NEVER = NUMBER_WORDS | frozenset((
    "or", "not", "no", "never", "is", "isn", "isn't", "are", "was", "were", "be", "to", "but", "if", "maybe", "perhaps",
    "possibly", "probably", "than", "minus", "plus", "over", "divided", "by", "modulo", "mod", "negative",
    "below", "above", "under", "factorial", "root", "equals", "equal", "wrong", "incorrect", "false", "right", "true",
    "correct", "error", "errors", "mistake", "mistakes", "guess", "guesses", "about", "approximately", "roughly",
    "almost", "nearly", "around", "few", "many", "much", "too", "seems", "seem", "looks", "double", "triple", "twice",
    "score", "scores", "couple", "percent", "percentage", "nope", "instead", "answer", "yes",
))
"""Words that hedge ("18 or nineteen"), deny ("18 is wrong") or compute ("18 times two"): never in a unit."""
_FILLERS = frozenset((
    "of", "a", "an", "the", "each", "every", "in", "total", "altogether", "all", "left", "more", "per", "for", "and",
    "remaining", "away", "long", "tall", "old", "worth", "extra", "at", "on", "from", "with", "less", "fewer",
))
_PLURALS = frozenset(("people", "children", "men", "women", "sheep", "fish", "deer", "mice", "geese", "teeth", "oxen",
                      "person", "student", "apple", "egg", "unit", "item", "point"))
# fmt: on
_TOKEN = re.compile(
    r"(?P<word>(?:°[CF]?|[A-Za-z$£€¥₹¢Ω]+(?:[.'’-][A-Za-z]+)*\.?))(?:\^?\{?(?P<power>-?[1-9])\}?|(?P<small>[²³]))?|(?P<over>/)"
)
_ALONE = frozenset(
    (
        "total",
        "altogether",
        "all",
        "left",
        "more",
        "remaining",
        "away",
        "long",
        "tall",
        "old",
        "extra",
        "less",
        "fewer",
        "each",
    )
)
_GAP = re.compile(r"[\s·*~]+|\\cdot")


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text as `unit` compares them: blind to case and plural.

    Example:
        >>> sorted(words_of("How many Dollars per hour?"))
        ['dollar', 'hour', 'how', 'many', 'per']
    """
    return frozenset(stem(word) for word in re.findall(r"[A-Za-z]+", text.casefold()))


def stem(word: str) -> str:
    """Return a word without the ending that makes it plural."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("shes", "ches", "xes", "sses")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def known(word: str) -> tuple[str, int, Fraction] | None:
    """Return the base, power and worth of a word of the table, None for any other."""
    if len(word) == 1 and word.isascii() and word.isalpha():
        return _KNOWN.get(_CASED.get(word, word if word in "mgslh" else ""))
    lowered = word.casefold()
    return _KNOWN.get(lowered) or _KNOWN.get(lowered.removesuffix("."))


def is_known(base: str) -> bool:
    """Return whether a base is one of the table's, not a noun."""
    return base in _BASES


@lru_cache(maxsize=4096)
def read_unit(text: str, context: frozenset[str] | None = None) -> Unit | None:
    """Return the unit that a phrase names, {} for none, None when it is no unit.

    Args:
        text: what stands behind (or, for a currency, before) a number.
        context: the words (`words_of`) of the gold and the question that may be units; None when there is no question.

    Example:
        >>> read_unit("square cm") == read_unit("cm^2"), read_unit("km/h") == read_unit("kilometers per hour")
        (True, True)
        >>> read_unit("too few"), read_unit("eggs"), read_unit("eggs", frozenset({"peach"}))
        (None, {'egg': (1, Fraction(1, 1))}, None)
    """
    phrase = text.strip()
    if len(phrase) > MAX_UNIT_CHARS:
        return None
    if re.fullmatch(r"\\?%|percent(?:age)?(?: points?)?|per cent|pct\.?", phrase, re.IGNORECASE):
        return PERCENT
    for short, long in _SPEEDS.items():
        phrase = re.sub(rf"\b{short}\b", long, phrase)
    if not phrase:
        return {}
    tokens = _tokens(phrase)
    if tokens is None or any(word.casefold() in _NEVER for word, _ in tokens):
        return None
    found: dict[str, tuple[int, Fraction]] = {}
    sign, power, nouns = 1, 1, []
    for place, (word, written) in enumerate(tokens):
        lowered = word.casefold()
        if lowered in ("per", "/"):
            sign = -1
        elif lowered in ("square", "sq", "sq.", "cubic", "cu", "cu."):
            power = 2 if lowered.startswith("s") else 3
        elif lowered in ("squared", "cubed") and found:
            base = list(found)[-1]
            old, worth = found[base]
            found[base] = (old * (2 if lowered == "squared" else 3), worth ** (2 if lowered == "squared" else 3))
        elif lowered in _FILLERS and not (lowered == "in" and place == len(tokens) - 1):
            sign = -1 if lowered in ("a", "an", "each", "every") and found else sign
        else:
            entry = known(word)
            if entry is None:
                nouns.append(lowered.rstrip("."))
                if len(word) == 1:
                    return None  # a lone letter behind a number is a variable ("5x")
                entry = (stem(lowered.rstrip(".")), 1, Fraction(1))
            base, own, worth = entry
            exponent = sign * power * written
            old, before = found.get(base, (0, Fraction(1)))
            found[base] = (old + own * exponent, before * worth**exponent)
            power = 1
    if not found and tokens and not any(word.casefold() in _ALONE for word, _ in tokens):
        return None  # "5a": nothing but fillers
    return found if _are_units(nouns, context) else None


def is_phrase(text: str, spaced: bool) -> bool:
    """Return whether a text looks like words, be they a unit or not: "5x" has a variable, "5 x" too, "5 seem" a phrase.

    Args:
        spaced: it stands apart from the number; glued to it, only a unit of the table is a phrase.
    """
    tokens = _tokens(text) if len(text) <= 2 * MAX_UNIT_CHARS else None
    if not tokens:
        return False
    words = [word for word, _ in tokens if word not in ("/", "-")]
    if not spaced:
        return bool(words) and (known(words[0]) is not None or words[0].casefold() in _SPEEDS)
    return all(len(word) > 1 or known(word) is not None or word in ("a", "A", "I") for word in words) and any(
        len(word) > 2 or known(word) is not None or word.casefold() in _NEVER for word in words
    )


def _tokens(phrase: str) -> list[tuple[str, int]] | None:
    """Return the words of a phrase with their powers ("cm^2" -> ("cm", 2)), None when it has anything else."""
    found, place = [], 0
    while place < len(phrase):
        match = _GAP.match(phrase, place) or _TOKEN.match(phrase, place)
        if match is None:
            return None
        place = match.end()
        if match.re is _TOKEN:
            small = {"²": 2, "³": 3}.get(match["small"] or "", 1)
            found.append((match["word"] or "/", int(match["power"]) if match["power"] else small))
    return found


def _are_units(nouns: list[str], context: frozenset[str] | None) -> bool:
    """Return whether words outside the table are units here."""
    if not nouns:
        return True
    if context is not None:
        return all(stem(part) in context for noun in nouns for part in re.findall(r"[a-z]+", noun))
    heads = [
        noun for noun in nouns if noun in _PLURALS or (noun.endswith("s") and not noun.endswith(("ss", "us", "is")))
    ]
    return bool(heads)


def convertible(answer: Unit, gold: Unit) -> Fraction | None:
    """Return what one of the answer's unit is worth in the gold's, None when they do not agree.

    One may be left out, or say more than the other ("dollars per day" for "$").

    Example:
        >>> convertible(read_unit("cents"), read_unit("$")), convertible(read_unit("cm"), read_unit("cm^2"))
        (Fraction(1, 100), None)
    """
    shared = answer.keys() & gold.keys()
    if not (answer.keys() <= gold.keys() or gold.keys() <= answer.keys()):
        return None
    if (answer and gold and not shared) or any(answer[base][0] != gold[base][0] for base in shared):
        return None
    worth = Fraction(1)
    for base in shared:
        worth *= answer[base][1] / gold[base][1]
    return worth
