"""The catalogue in words: for the terminal, and for docs/rewards.md.

`python -m mathgrpo.rewards.catalogue_page FILE` writes the second.
"""

from __future__ import annotations

import math
import sys
import textwrap
from pathlib import Path

from mathgrpo.config.recipe import Section
from mathgrpo.config.recipe_fields import allowed
from mathgrpo.rewards.registry import CATALOGUE
from mathgrpo.rewards.reward import FAMILIES, Reward
from mathgrpo.text import with_inside

BEGIN, END = "<!-- catalogue -->", "<!-- end of catalogue -->"
"""Between these marks docs/rewards.md holds `catalogue_markdown`."""


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
    if not columns or len(beginning) + len(reward.pays) <= columns:
        return [beginning + reward.pays]
    return [
        beginning.rstrip(),
        *textwrap.wrap(reward.pays, columns, initial_indent="      ", subsequent_indent="      "),
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
    pay = reward.pay_with(None)
    if math.isinf(pay.high):
        return f"{pay.low:g} upwards"
    return f"{pay.high:g} downwards" if math.isinf(pay.low) else f"{pay.low:g} to {pay.high:g}"


def _block(name: str, reward: Reward) -> str:
    facts = [f"**`{name}`** pays {reward.pays}.", f"- Range: {range_words(reward)}{_wrong_words(reward)}."]
    facts.append(f"- Gaming: {reward.gaming}.")
    facts += [f"- Source: {reward.source}."] if reward.source else []
    columns = ", ".join(f"`{column}`" for column in reward.columns)
    facts += [f"- Needs the problem columns {columns}."] if columns else []
    facts += ["- Needs token ids; without them it does not apply."] if reward.needs_tokens else []
    facts += (
        [_setting_line(name, key, reward.settings) for key in reward.settings.model_fields] if reward.settings else []
    )
    return "\n".join([facts[0], "", *facts[1:]])


def _wrong_words(reward: Reward) -> str:
    pay = reward.pay_with(None)
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
