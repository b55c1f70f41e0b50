"""From the [problems] section of a recipe to problems: generated, from a file or folder, or from the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mathgrpo.errors import UserError, did_you_mean
from mathgrpo.problems import worked as gsm8k
from mathgrpo.problems.sets import ProblemSets, heldout_alone, hold_out, separate
from mathgrpo.problems.table import ALLOWED, READERS, hub_rows, read_table
from mathgrpo.problems.table_rows import Row, listed, problem_from_row, shown
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
    return split_sets(read_problems(section, section.train_split), section)


def split_sets(train: Sequence[Problem], section: ProblemsSection) -> ProblemSets:
    """Return the two sets of a source whose training split is read: its other split, or a part of this one held out."""
    sizes = {"train_size": section.train_size, "heldout_size": section.heldout_size}
    if has_one_split(section):
        return hold_out(train, shown(section.source), **sizes)
    heldout = read_problems(section, section.heldout_split)
    return separate(train, heldout, shown(section.source), **sizes)


def load_heldout(section: ProblemsSection) -> ProblemSets:
    """Return only problems to evaluate on: all of a single file, else the held-out split; at most heldout_size.

    For evaluation without training. Train is empty, and need not exist in the source.
    """
    if section.place == GENERATED:
        from mathgrpo.problems.generated import generate_heldout

        return ProblemSets((), *generate_heldout(section.heldout_size, section.draw, section.max_value))
    return heldout_alone(read_problems(section, section.heldout_split), section.heldout_size)


def has_one_split(section: ProblemsSection) -> bool:
    """Return whether training and evaluation must share one split of the source."""
    return _kind(Path(section.place).expanduser()) == "file" or section.train_split == section.heldout_split


def read_split(section: ProblemsSection, split: str) -> list[Row]:
    """Return the rows of one split; a single file has one split, whatever its name.

    Raises:
        UserError: there is no such source or split, or it cannot be read.
    """
    source, path = section.place, Path(section.place).expanduser()
    kind = _kind(path)
    if kind == "folder":
        files = table_files(path)
        return read_table(_split_file(files, split, section)) if files else hub_rows(str(path), section.subset, split)
    # What is not there but looks like a path was meant as a file rather than a hub id.
    is_path = path.suffix.lower() in READERS or source.startswith(("/", ".", "~")) or source.count("/") > 1
    if kind == "file" or is_path:
        return read_table(path)
    if not _HUB_ID.fullmatch(source):
        near = did_you_mean(source, [GENERATED, gsm8k.HUB_ID, "gsm8k"]).replace('"gsm8k"', f'"{gsm8k.HUB_ID}"')
        raise UserError(f"problems.source={shown(source)}: no such file, folder or hub id; allowed: {ALLOWED}{near}")
    subset = section.subset or (gsm8k.HUB_SUBSET if source == gsm8k.HUB_ID else "")
    return hub_rows(source, subset, split)


def all_rows(section: ProblemsSection) -> dict[str, list[Row]]:
    """Return every split of a file, folder or hub dataset by name, to be checked row by row."""
    path = Path(section.place).expanduser()
    if _kind(path) == "folder" and (files := table_files(path)):
        return {file.name: read_table(file) for file in files}
    splits = [path.name] if _kind(path) == "file" else dict.fromkeys((section.train_split, section.heldout_split))
    return {split: read_split(section, split) for split in splits}


def table_files(folder: Path) -> list[Path]:
    """Return the files in a folder that hold problems, one a split, by name; none in a folder with hub layout.

    dataset_info.json and the like are a library's notes, not problems.
    """
    files = (file for file in folder.iterdir() if file.suffix.lower() in READERS and file.is_file())
    return sorted(file for file in files if not re.fullmatch(r"dataset_(info|infos|dict)\.json", file.name))


def _split_file(files: list[Path], split: str, section: ProblemsSection) -> Path:
    """Return the one file of a folder whose stem is the split's name."""
    found = [file for file in files if file.stem == split]
    if len(found) == 1:
        return found[0]
    field, there = f"problems.splits={json.dumps(section.splits)}", listed([file.name for file in found or files])
    if found:
        raise UserError(f"{field}: {shown(section.source)} has {there}; keep one of them")
    raise UserError(
        f"{field}: no such file as {shown(split)} in {shown(section.source)}; files there: {there}"
        f"{did_you_mean(split, [file.stem for file in files])}; "
        "name the file itself as problems.source to hold out a part of it"
    )


def _kind(path: Path) -> Literal["folder", "file", ""]:
    """Return what is at a path; "" for nothing, or nothing this user may see."""
    try:
        if path.is_dir():
            return "folder"
        return "file" if path.exists() else ""
    except OSError:
        return ""


def read_problems(section: ProblemsSection, split: str) -> list[Problem]:
    """Return the problem of every row of one split."""
    return [problem_from_row(row, section) for row in read_split(section, split)]
