"""What a chat template can be told: the names that it reads beside the conversation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from mathgrpo.errors import UserError, did_you_mean, named
from mathgrpo.formats.rendering import Rendered
from mathgrpo.formats.template_probe import template_of

_GIVEN = {"messages", "add_generation_prompt", "raise_exception", "strftime_now", "bos_token", "eos_token", "unk_token",
          "pad_token", "sep_token", "cls_token", "mask_token", "additional_special_tokens"}  # fmt: skip
"""Names that are given to every template: the conversation, the tokenizer's special tokens, functions."""


def require_arguments(tokenizer: Any, arguments: Mapping[str, Any], name: str) -> None:
    """Return when the tokenizer's chat template reads all these arguments.

    name: of the setting that has them.
    Raises: UserError otherwise: told to nobody they would change nothing, in silence.
    """
    if not arguments:
        return
    template = template_of(tokenizer)
    if not template:
        raise UserError(f"{name}: the model has no chat template to tell them to; leave it out")
    known = readable_arguments(template)
    for argument in arguments:
        if argument not in known:
            told = shown_arguments(template)
            there = f"it reads {', '.join(told)}" if told else "it reads none; leave it out"
            raise UserError(
                f"{name}.{argument}: the model's chat template does not read it{did_you_mean(argument, known)}; {there}"
            )


def require_open(shown: Rendered) -> None:
    """Return when a prompt ends where the answer begins.

    Raises: UserError when the template has a beginning of an assistant's turn and keeps it out of prompts.
    """
    if shown.lacks:
        raise UserError(
            f"{named('model.path')}: its chat template does not heed add_generation_prompt: prompts end before "
            f"{shown.lacks!r}, so that the model has to write that first; let chat_template in the model's folder end "
            f"in {{% if add_generation_prompt %}}{{{{ {shown.lacks!r} }}}}{{% endif %}}"
        )


@lru_cache(maxsize=64)
def readable_arguments(template: str) -> tuple[str, ...]:
    """Return the names that a chat template reads and a caller may set, sorted.

    Example:
        >>> readable_arguments("{{ bos_token }}{% if enable_thinking is defined %}{{ messages[0].content }}{% endif %}")
        ('enable_thinking',)
    """
    from jinja2 import TemplateError, meta

    environment = _environment()
    try:
        names = meta.find_undeclared_variables(environment.parse(template))
    except TemplateError:  # told where a conversation is put through it
        return ()
    return tuple(sorted(names - _GIVEN - environment.globals.keys()))


def shown_arguments(template: str) -> list[str]:
    """Return the names that a caller is meant to set, sorted; those that a template sets in its loops are its own."""
    own = _of_loops(template)
    return [name for name in readable_arguments(template) if name not in own]


def _of_loops(template: str) -> set[str]:
    """Return the names that a template sets in its loops and reads nowhere else."""
    from jinja2 import nodes

    tree = _environment().parse(template)
    loops = list(tree.find_all(nodes.For))
    inside = [name for loop in loops for name in loop.find_all(nodes.Name)]
    within = {id(name) for name in inside}
    outside = {name.name for name in tree.find_all(nodes.Name) if id(name) not in within}
    return {name.name for name in inside if name.ctx == "store"} - outside


def _environment() -> Any:
    """Return jinja's environment as transformers sets it up, as far as reading a template goes."""
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import Scope
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block {% generation %} that transformers knows beside jinja's own."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
