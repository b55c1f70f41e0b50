"""What a recipe's fields are and allow, read from its pydantic models."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Annotation = Any
SHOWN_CHARS = 60
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
"""Bound of a number, as pydantic and annotated_types call it -> in words."""


def plain_name(path: Sequence[object]) -> str:
    """Return a path as the user writes it: ("stages", 0, "tokens") is "stages.0.tokens"."""
    return ".".join(str(part) for part in path)


def shown(value: object) -> str:
    """Return a value as the user wrote it, cut when long.

    Example:
        >>> shown("fast"), shown(True), shown({"a": 1})
        ('"fast"', 'true', 'a table')
    """
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, (list, tuple)):
        text = "[" + ", ".join(shown(item) for item in value) + "]"
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…"


def fields_of(model: type[BaseModel], path: str = "") -> dict[str, FieldInfo]:
    """Return every field of a recipe by its full name, that of any table in a list with a "*" for its number."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        found[path + name] = field
        inner = section_of(field.annotation)
        if inner is not None:
            found |= fields_of(inner, f"{path}{name}.{'*.' if get_origin(field.annotation) is tuple else ''}")
    return found


def field_at(model: type[BaseModel], path: Sequence[object]) -> FieldInfo | None:
    """Return the field a path leads to, or that has the entry it leads to; None for what lies in a free-form table."""
    name = plain_name(["*" if str(part).isdigit() else part for part in path])
    return fields_of(model).get(name.removesuffix(".*"))


def section_at(model: type[BaseModel], path: Sequence[object]) -> type[BaseModel] | None:
    """Return the section a path leads to; the recipe itself for an empty path."""
    field = field_at(model, path) if path else None
    return model if not path else section_of(field.annotation) if field is not None else None


def section_of(annotation: Annotation) -> type[BaseModel] | None:
    """Return the section class in an annotation: Section, Section | None or tuple[Section, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (section_of(inner) for inner in get_args(annotation))
    return next((section for section in found if section is not None), None)


def paths_of(model: type[BaseModel], name: str) -> list[str]:
    """Return where a recipe has a field of this name, or one that TRL calls so.

    Example:
        >>> from mathgrpo.config.recipe import Recipe
        >>> paths_of(Recipe, "learning_rate"), paths_of(Recipe, "num_generations")
        (['optimizer.learning_rate'], ['rollout.group_size'])
    """
    return [
        path
        for path, field in fields_of(model).items()
        if "*" not in path and (path.split(".")[-1] == name or f"(TRL: {name})" in (field.description or ""))
    ]


def mapping_default(model: type[BaseModel], name: str) -> dict[str, Any] | None:
    """Return the default of a field that is a table with free names, None for every other field."""
    field = model.model_fields.get(name)
    if field is None or get_origin(field.annotation) is not dict:
        return None
    return dict(field.get_default(call_default_factory=True))


def allowed(field: FieldInfo) -> str:
    """Return in words what a field takes.

    Example:
        >>> from mathgrpo.config.recipe import RolloutSection
        >>> allowed(RolloutSection.model_fields["temperature"])
        'a number above 0 and at most 5'
    """
    return f"{_kind(field.annotation)} {_bounds(field.metadata)}".strip()


def _kind(annotation: Annotation) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if annotation in names:
        return names[annotation]
    origin: Any = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return f"{_kind(arguments[0])} {_bounds(arguments[1].metadata)}"
    if origin is Literal:
        return ", ".join(f'"{value}"' for value in arguments)
    if origin is tuple and section_of(annotation) is None:
        return f"a list, each entry {_kind(arguments[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(inner) for inner in arguments if inner is not type(None))
    return "a list of tables" if origin is tuple else "a table"


def _bounds(metadata: Sequence[object]) -> str:
    bounds = (
        (words, getattr(each, name)) for each in metadata for name, words in BOUNDS.items() if hasattr(each, name)
    )
    return " and ".join(
        f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}" for words, value in bounds
    )
