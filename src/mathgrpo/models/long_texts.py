"""How long a text must be to show all that a model does with texts.

A sliding window, attention in chunks, a switch of the rotary embedding or a last position show in no text shorter than
they are. The configuration names their lengths, so a trial just beyond them sees what a run's longest text would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mathgrpo.models.known_modules import why_not_served
from mathgrpo.models.policy import base_model

_LENGTH_WORDS = ("window", "chunk", "block", "local", "position", "context", "length", "seq")
"""Parts of the names under which configurations keep numbers of tokens."""

SHORT_TRIAL = 18
"""Tokens that every trial sees."""
_UNNAMED = 64
"""Tokens of a longer trial where the configuration names no length; and how far it goes beyond one, at least."""


def telling_length(model: Any, longest: int) -> int:
    """Return how long a text must be to show what this model does in texts of up to `longest` tokens.

    0 where a short one shows it all: models that only attend to everything, with a rotary embedding that never changes.
    Else just beyond the largest length that the configuration names, and never longer than `longest`.
    """
    base = base_model(model)
    if longest <= SHORT_TRIAL or not why_not_served(base):
        return 0
    named = [number for number in _lengths(base.config.get_text_config().to_dict()) if number > SHORT_TRIAL // 2]
    return min(longest, max([_UNNAMED, *(n + max(_UNNAMED, n // 4) for n in named if n < longest)]))


def _lengths(config: Mapping[str, Any]) -> Iterator[int]:
    """Yield the numbers of tokens in a configuration, those of its parts included."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _lengths({str(key): each for key, each in value.items()})
        elif isinstance(value, int) and any(word in name for word in _LENGTH_WORDS):
            yield value
