"""Which columns of a table hold question and gold, and how that is said."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mathgrpo.errors import UserError, did_you_mean, named
from mathgrpo.problems.cells import Missing, answer_text, cell, columns_in, question_text
from mathgrpo.problems.known_columns import COLUMNS, GOLDS, QUESTIONS, WORKED, Column, in_table, is_known_for_other
from mathgrpo.problems.marked_result import MARKS, is_prose, marked_result, result_of
from mathgrpo.problems.table_rows import Row, listed, shown

if TYPE_CHECKING:
    from mathgrpo.config.recipe import ProblemsSection

SAMPLE = 50
"""Rows that a column is judged by."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as far as it must be known to choose its columns: its source, its columns' names, its first rows."""

    source: str
    names: Sequence[str]
    rows: Sequence[Row]

    def has(self, name: str) -> bool:
        """Return whether one of the rows has what a setting names."""
        return any(_there(row, name) for row in self.rows)

    def texts(self, name: str, read: Callable[[Any, str], str]) -> list[str]:
        """Return what the rows have there, "" for a cell that holds no text."""
        return [_read_or_nothing(row, name, read) for row in self.rows]


def chosen_columns(section: ProblemsSection, rows: Sequence[Row]) -> ProblemsSection:
    """Return the section with the columns of question and gold filled in for these rows, where it names none.

    Standard names come first; then what public data sets call them, where just one column fits or all that fit agree.

    Raises:
        UserError: no row has a column, none or several fit, or the golds are prose. It is said once for the table.
    """
    names = list(dict.fromkeys(str(name) for row in rows for name in row.values))
    # Of a column that a setting names every row is asked, else a table whose first rows lack it would be refused.
    table = Table(section.source, names, rows)
    sample = Table(section.source, names, rows[:SAMPLE])
    columns = dict(section.columns)
    for field, choose in (("question", _question), ("answer", _gold)):
        if field not in columns:
            columns[field] = choose(sample)
    for field, name in columns.items():
        if field in COLUMNS and not table.has(name):
            raise missing(field, name, names, table)
    _require_golds(columns["answer"], sample)
    return section.model_copy(update={"columns": columns})


def how_read(before: ProblemsSection, after: ProblemsSection) -> str:
    """Return in words which columns were chosen for a section that names none, "" for the standard names."""
    if all(after.column(field) == before.column(field) for field in COLUMNS):
        return ""
    worked = after.column("answer").lower() in WORKED
    where = "the result marked in " if worked else ""
    return f"question from {shown(after.column('question'))}, answer from {where}{shown(after.column('answer'))}"


def setting(field: Column, name: str) -> str:
    """Return how to name a column, as it can be pasted behind a command.

    Example:
        >>> setting("question", "problem"), setting("answer", "0.value")
        ('--set problems.columns.question=problem', '--set problems.columns.answer=0.value')
    """
    option = named(f"problems.columns.{field}")
    if option.startswith("--"):
        return f"{option} {shlex.quote(name)}"
    try:
        tomllib.loads(f"value = {name}")
        name = json.dumps(name, ensure_ascii=False)
    except tomllib.TOMLDecodeError:
        pass
    return f"--set {shlex.quote(f'problems.columns.{field}={name}')}"


def missing(field: Column, name: str, names: Sequence[str], table: Table, place: str = "") -> UserError:
    """Return the error for a column that is not there, with the ones that could be meant; place: of one row only."""
    where = f"{place} of {shown(table.source)}" if place else shown(table.source)
    fitting = [each for each in names if not is_known_for_other(each, field)]
    lost = next((each for each in columns_in(name) if not table.has(each)), name)
    near = did_you_mean(lost, fitting)
    remedy = near or ("" if place else _proposal(field, table))
    return UserError(
        f"{named(f'problems.columns.{field}')}={shown(name)}: {where} has no such column; "
        f"columns there: {listed(names) or 'none'}{remedy}"
    )


def _proposal(field: Column, table: Table) -> str:
    """Return what to write, "" when no column could be meant."""
    if field == "solution":
        fitting = [each for name in WORKED if (each := in_table(name, table.names))]
    else:
        groups = QUESTIONS if field == "question" else (*GOLDS, WORKED)
        fitting = [found for group in groups for name in group if (found := in_table(name, table.names))]
        fitting = [each for each in fitting if table.has(each)] or _by_content(field, table)
    return f"; write {' or '.join(setting(field, each) for each in fitting[:3])}" if fitting else ""


def _by_content(field: Column, table: Table) -> list[str]:
    """Return the columns whose cells look like questions (words) or like golds (short)."""
    found = []
    for name in table.names:
        texts = [text for text in table.texts(name, answer_text) if text]
        words = sum(len(text.split()) for text in texts) / max(len(texts), 1)
        looks = words >= 3 if field == "question" else 0 < words < 3 or any(map(_marked_or_nothing, texts))
        if texts and looks and not is_known_for_other(name, field):
            found.append(name)
    return sorted(found, key=len)[:3]


def _question(table: Table) -> str:
    """Return where the question stands: of columns that hold one another's text in the barest, which is it alone."""
    for group in QUESTIONS:
        found = _filled(group, table, question_text)
        if found:
            barest = min(found, key=lambda name: sum(map(len, found[name])))
            others = [name for name, texts in found.items() if not _within(found[barest], texts)]
            if others:
                raise _several("question", [barest, *others], table)
            return barest
    return _standard("question", table)


def _gold(table: Table) -> str:
    """Return where the gold answer stands: in a column of its own, else in a worked solution that marks it."""
    for group in (*GOLDS, WORKED):
        found = _filled(group, table, answer_text)
        golds = {name: [_gold_or_text(text) for text in texts] for name, texts in found.items()}
        if group is WORKED:
            golds = {name: each for name, each in golds.items() if not all(map(is_prose, filter(None, each)))}
        if golds:
            first = next(iter(golds))
            others = [name for name, each in golds.items() if not _agree(golds[first], each)]
            if others:
                raise _several("answer", [first, *others], table)
            return first
    return _standard("answer", table)


def _standard(field: Column, table: Table) -> str:
    """Return the standard column where it is there, though the first rows hold nothing: each is told of then."""
    if field in table.names:
        return field
    raise missing(field, field, table.names, table)


def _filled(group: Iterable[str], table: Table, read: Callable[[Any, str], str]) -> dict[str, list[str]]:
    """Return the names of a group that have a text in one of the rows at least, as the table spells them."""
    spelled = dict.fromkeys(found for name in group if (found := in_table(name, table.names)))
    texts = {name: table.texts(name, read) for name in spelled if not _has_one_in_another(name, table)}
    covered = {part for name, each in texts.items() if any(each) for part in columns_in(name) if "{" in name}
    return {name: each for name, each in texts.items() if any(each) and name not in covered}


def _has_one_in_another(name: str, table: Table) -> bool:
    """Return whether a text of several columns would say one of them twice: it was joined before."""
    parts = [table.texts(part, question_text) for part in columns_in(name)] if "{" in name else []
    pairs = (pair for a in parts for b in parts if a is not b for pair in zip(a, b, strict=True))
    return any(one and one in other for one, other in pairs)


def _several(field: Column, names: Sequence[str], table: Table) -> UserError:
    ways = " or ".join(setting(field, name) for name in names[:3])
    return UserError(
        f"problems.source={shown(table.source)}: {listed(names)} could each be the {field}, and they differ; "
        f"columns there: {listed(table.names)}; write {ways}"
    )


def _require_golds(name: str, table: Table) -> None:
    """Return unless all golds of the first rows are prose without a marked result."""
    texts = [text for text in table.texts(name, answer_text) if text]
    if texts and all(is_prose(text) and not _marked_or_nothing(text) for text in texts):
        raise UserError(
            f"{named('problems.columns.answer')}={shown(name)}: the answers of {shown(table.source)} are prose without "
            f"a marked result ({MARKS}), so nothing can be graded; columns there: {listed(table.names)}; "
            "name one with short golds, or add such marks"
        )


def _within(barest: Sequence[str], texts: Sequence[str]) -> bool:
    pairs = [(one, other) for one, other in zip(barest, texts, strict=True) if one and other]
    return all(" ".join(one.split()) in " ".join(other.split()) for one, other in pairs)


def _agree(golds: Sequence[str], others: Sequence[str]) -> bool:
    return all(one.strip("$ ") == other.strip("$ ") for one, other in zip(golds, others, strict=True) if one and other)


def _gold_or_text(text: str) -> str:
    marked = result_of(text)
    return marked[0] if marked else text


def _marked_or_nothing(text: str) -> bool:
    try:
        return marked_result(text) is not None
    except ValueError:
        return True


def _there(row: Row, name: str) -> bool:
    try:
        for column in [name] if name in row.values else columns_in(name):
            cell(row.values, column)
    except Missing:
        return False
    return True


def _read_or_nothing(row: Row, name: str, read: Callable[[Any, str], str]) -> str:
    try:
        return read(row.values, name)
    except (Missing, ValueError):
        return ""
