"""Response formats: how a problem is put to the model, and how its completion is read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mathgrpo.errors import UserError
from mathgrpo.formats.format import Format, Parsed
from mathgrpo.formats.layouts import BOXED, THINK, THINK_LEAKY, WORKING_OUT, XML

if TYPE_CHECKING:
    from mathgrpo.config.recipe import FormatSection

__all__ = ["FORMATS", "Format", "Parsed", "format_of", "get_format"]

FORMATS: dict[str, Format] = {fmt.name: fmt for fmt in (XML, WORKING_OUT, THINK, BOXED, THINK_LEAKY)}


def get_format(name: str) -> Format:
    """Return the response format of this name.

    Raises:
        UserError: there is none.

    Example:
        >>> get_format("boxed").parse("6 * 3 = 18\\n\\n\\\\boxed{18}").answer
        '18'
    """
    if name not in FORMATS:
        raise UserError(f'format.name="{name}": no such format; allowed: {", ".join(FORMATS)}')
    return FORMATS[name]


def format_of(section: FormatSection) -> Format:
    """Return the response format of a recipe, with what it passes to the model's chat template.

    Raises:
        UserError: there is none of that name.
    """
    return replace(get_format(section.name), chat_template_kwargs=section.chat_template_kwargs)
