"""The catalogue in words: for the terminal, and for docs/rewards.md.

`python -m mathgrpo.rewards.catalogue_page FILE` writes the second.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import textwrap
from pathlib import Path

from mathgrpo.config.recipe import Section
from mathgrpo.config.recipe_fields import allowed
from mathgrpo.rewards.registry import CATALOGUE
from mathgrpo.rewards.reward import Reward
from mathgrpo.text import with_inside

BEGIN, END = "<!-- catalogue -->", "<!-- end of catalogue -->"
"""Between these marks docs/rewards.md holds `catalogue_markdown`."""
FAMILIES: dict[str, str] = {
    "answer": "The answer",
    "form": "The form",
    "steps": "Verified steps",
    "constraint": "Constraints",
    "length": "Length",
    "language": "Language and fluency",
    "reference 1": "Reference system 1: Qwen2.5-0.5B with XML tags, faults included",
    "reference 2": "Reference system 2: multi-reward, working-out format, faults included",
    "reference 3": "Reference system 3: step verification, faults included",
    "reference 4": "Reference system 4: the one-shot notebook, faults included",
}
"""Family -> heading. Of reference system 4 only the three rewards that system 1 has otherwise stand by themselves."""


def pays(reward: Reward) -> str:
    """Return what a reward pays for and how much: its docstring's first paragraph."""
    first = _documented(reward).partition("\n\n")[0]
    return " ".join(first.split()).removeprefix("Return ").removesuffix(".")


def fact(reward: Reward, label: str) -> str:
    """Return what stands behind "Gaming:" or "Source:" in a reward's docstring, "" where there is none."""
    found = re.search(rf"^{label}: (.+(?:\n .+)*)", _documented(reward), re.MULTILINE)
    return " ".join(found[1].split()).removesuffix(".") if found else ""


def _documented(reward: Reward) -> str:
    return inspect.getdoc(reward.function) or ""


def catalogue_lines(columns: int = 0) -> list[str]:
    """Return every reward with its range and what it pays for, for a terminal; columns: of a line, 0: any number."""
    lines: list[str] = []
    for family, heading in FAMILIES.items():
        lines += [heading]
        for name, reward in CATALOGUE.items():
            if reward.family == family:
                lines += _reward_lines(name, reward, columns)
    return lines


def _reward_lines(name: str, reward: Reward, columns: int) -> list[str]:
    beginning = f"  {name:<{max(map(len, CATALOGUE))}}  {range_words(reward):<15}  "
    if not columns or len(beginning) + len(pays(reward)) <= columns:
        return [beginning + pays(reward)]
    return [
        beginning.rstrip(),
        *textwrap.wrap(pays(reward), columns, initial_indent="      ", subsequent_indent="      "),
    ]


def catalogue_markdown() -> str:
    """Return every reward with all its facts, in Markdown."""
    blocks = []
    for family, heading in FAMILIES.items():
        blocks.append(f"### {heading}")
        blocks += [_block(name, reward) for name, reward in CATALOGUE.items() if reward.family == family]
    return "\n\n".join(blocks)


def range_words(reward: Reward) -> str:
    """Return the bounds of a reward under its default settings.

    Example:
        >>> range_words(CATALOGUE["soft_overlong"]), range_words(CATALOGUE["step_verified_reference"])
        ('-1 to 0', '0 upwards')
    """
    pay = reward.bounds
    if math.isinf(pay.high):
        return f"{pay.low:g} upwards"
    return f"{pay.high:g} downwards" if math.isinf(pay.low) else f"{pay.low:g} to {pay.high:g}"


def _block(name: str, reward: Reward) -> str:
    facts = [f"**`{name}`** pays {pays(reward)}.", f"- Range: {range_words(reward)}{_wrong_words(reward)}."]
    facts.append(f"- Gaming: {fact(reward, 'Gaming')}.")
    facts += [f"- Source: {source}."] if (source := fact(reward, "Source")) else []
    columns = ", ".join(f"`{column}`" for column in reward.columns)
    facts += [f"- Needs the problem columns {columns}."] if columns else []
    facts += ["- Needs token ids; without them it does not apply."] if reward.needs_tokens else []
    if reward.settings is not None:
        facts += [_setting_line(name, key, type(reward.settings)) for key in type(reward.settings).model_fields]
    return "\n".join([facts[0], "", *facts[1:]])


def _wrong_words(reward: Reward) -> str:
    pay = reward.bounds
    if pay.high <= 0 or math.isinf(pay.wrong):
        return ""
    return f"; a wrong answer earns at most {pay.wrong:g}"


def _setting_line(name: str, key: str, settings: type[Section]) -> str:
    field = settings.model_fields[key]
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    meaning = (field.description or "").rstrip(".")
    shown = str(default).replace("'", '"')
    return f"- Setting `reward_settings.{name}.{key}` = {shown}: {meaning}. Allowed: {allowed(field)}."


def with_catalogue(text: str) -> str:
    """Return a page with what stands between its marks replaced by the catalogue.

    Raises:
        ValueError: the page has not exactly one pair of marks.
    """
    return with_inside(text, BEGIN, END, catalogue_markdown())


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(with_catalogue(page.read_text(encoding="utf-8")), encoding="utf-8")
