"""From the [problems] section of a recipe to problems: generated, from a file or folder, or from the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mathgrpo.errors import UserError, did_you_mean
from mathgrpo.problems import worked as gsm8k
from mathgrpo.problems.columns import chosen_columns, how_read
from mathgrpo.problems.hub_dataset import hub_rows, hub_tables, split_remedy
from mathgrpo.problems.row_problem import problem_from_row
from mathgrpo.problems.sets import ProblemSets, heldout_alone, hold_out, separate
from mathgrpo.problems.table import ALLOWED, READERS, Tables, kind_of, read_tables, split_of
from mathgrpo.problems.table_rows import Row, listed, shown
from mathgrpo.types import Problem

if TYPE_CHECKING:
    from mathgrpo.config.recipe import ProblemsSection

GENERATED = "generated"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def load_problem_sets(section: ProblemsSection) -> ProblemSets:
    """Return the training and held-out problems of a recipe; no question is in both.

    A source with one split (a single file, or the same split named twice) has a part held out by question hash.

    Raises:
        UserError: the source cannot be read, or a row is not a problem.
    """
    if section.place == GENERATED:
        from mathgrpo.problems.generated import generate_problem_sets

        return generate_problem_sets(section.train_size, section.heldout_size, section.draw, section.max_value)
    problems, notes = read_problems(section, section.train_split)
    sets = split_sets(problems, section)
    return replace(sets, notes=tuple(dict.fromkeys((*notes, *sets.notes))))


def split_sets(train: Sequence[Problem], section: ProblemsSection) -> ProblemSets:
    """Return the two sets of a source whose training split is read: its other split, or a part of this one held out."""
    sizes = {"train_size": section.train_size, "heldout_size": section.heldout_size}
    if has_one_split(section):
        return hold_out(train, shown(section.source), **sizes)
    heldout, notes = read_problems(section, section.heldout_split)
    sets = separate(train, heldout, shown(section.source), **sizes)
    return replace(sets, notes=(*notes, *sets.notes))


def load_heldout(section: ProblemsSection) -> ProblemSets:
    """Return only problems to evaluate on: all of a single file, else the held-out split; at most heldout_size.

    For evaluation without training. Train is empty, and need not exist in the source.
    """
    if section.place == GENERATED:
        from mathgrpo.problems.generated import generate_heldout

        return ProblemSets((), *generate_heldout(section.heldout_size, section.draw, section.max_value))
    problems, notes = read_problems(section, section.heldout_split)
    sets = heldout_alone(problems, section.heldout_size)
    return replace(sets, notes=(*notes, *sets.notes))


def has_one_split(section: ProblemsSection) -> bool:
    """Return whether training and evaluation must share one split of the source."""
    if section.train_split == section.heldout_split:
        return True
    path = Path(section.place).expanduser()
    if _kind(path) != "file":
        return False
    return kind_of(path) not in (".json", ".jsonl") or len(read_tables(path)) == 1


def read_split(section: ProblemsSection, split: str) -> list[Row]:
    """Return the rows of one split; a file without splits has one, whatever its name.

    Raises:
        UserError: there is no such source or split, or it cannot be read.
    """
    source, path = section.place, Path(section.place).expanduser()
    kind = _kind(path)
    if kind == "folder":
        files = table_files(path)
        if not files:
            return hub_rows(str(path), section.subset, split)
        return [row for file in _split_files(files, split, section) for row in _one_table(file)]
    # What is not there but looks like a path was meant as a file rather than a hub id.
    is_path = kind_of(path) in READERS or source.startswith(("/", ".", "~")) or source.count("/") > 1
    if kind == "file" or is_path:
        tables = read_tables(path)
        if len(tables) > 1 and split not in tables:
            remedy = split_remedy(list(tables))
            raise UserError(f"problems.source={shown(section.source)}: no split {shown(split)}; {remedy}")
        return tables[split] if len(tables) > 1 else next(iter(tables.values()))
    if not _HUB_ID.fullmatch(source):
        near = did_you_mean(source, [GENERATED, gsm8k.HUB_ID, "gsm8k"]).replace('"gsm8k"', f'"{gsm8k.HUB_ID}"')
        raise UserError(f"problems.source={shown(source)}: no such file, folder or hub id; allowed: {ALLOWED}{near}")
    return hub_rows(source, _subset(section), split)


def _subset(section: ProblemsSection) -> str:
    return section.subset or (gsm8k.HUB_SUBSET if section.place == gsm8k.HUB_ID else "")


def all_rows(section: ProblemsSection) -> Tables:
    """Return every split of a file, folder or hub dataset by name, to be checked row by row."""
    path = Path(section.place).expanduser()
    kind = _kind(path)
    if kind == "folder" and (files := table_files(path)):
        return {file.name: _one_table(file) for file in files}
    if kind == "file":
        return {name or path.name: rows for name, rows in read_tables(path).items()}
    if kind == "folder" or (_HUB_ID.fullmatch(section.place) and kind_of(path) not in READERS):
        return hub_tables(str(path) if kind else section.place, _subset(section))
    return {section.train_split: read_split(section, section.train_split)}


def _one_table(file: Path) -> list[Row]:
    return [row for rows in read_tables(file).values() for row in rows]


def table_files(folder: Path) -> list[Path]:
    """Return the files in a folder that hold problems, a split or a shard of one each, by name; none in a folder with
    hub layout or as the datasets library saves one.

    dataset_info.json and the like are a library's notes, not problems.
    """
    files = [file for file in folder.iterdir() if kind_of(file) in READERS and file.is_file()]
    if any(file.name in ("dataset_dict.json", "state.json") for file in files):
        return []
    return sorted(file for file in files if not re.fullmatch(r"dataset_infos?\.json", file.name))


def _split_files(files: list[Path], split: str, section: ProblemsSection) -> list[Path]:
    """Return the one file of a folder that holds a split, or all of its shards in their order."""
    found = [file for file in files if split_of(file)[0] == split]
    if len(found) == 1 or (found and all(split_of(file)[1] for file in found)):
        return found
    field, there = f"problems.splits={json.dumps(section.splits)}", listed([file.name for file in found or files])
    if found:
        raise UserError(f"{field}: {shown(section.source)} has {there}; keep one of them")
    splits = list(dict.fromkeys(split_of(file)[0] for file in files))
    raise UserError(
        f"{field}: no such file as {shown(split)} in {shown(section.source)}; files there: {there}"
        f"{did_you_mean(split, splits)}; {split_remedy(splits)}"
    )


def _kind(path: Path) -> Literal["folder", "file", ""]:
    """Return what is at a path; "" for nothing, or nothing this user may see."""
    try:
        if path.is_dir():
            return "folder"
        return "file" if path.exists() else ""
    except OSError:
        return ""


def read_problems(section: ProblemsSection, split: str) -> tuple[list[Problem], list[str]]:
    """Return the problem of every row of one split, and a note on columns that were chosen for it."""
    rows = read_split(section, split)
    chosen = chosen_columns(section, rows)
    read = how_read(section, chosen)
    return [problem_from_row(row, chosen) for row in rows], [f"problems: {read}"] if read else []
