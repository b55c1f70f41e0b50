"""Many completions graded at a time: what one asks the grader's processes does not hold up the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mathgrpo.answers.latex import grader

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return what a grading function makes of each item, in order.

    Numbers are graded one by one, in this thread. From the first item on that had to ask a process, there are threads,
    so that all processes are busy.
    """
    left, done, asked = list(items)[::-1], [], grader.asked
    while left and grader.asked == asked:
        done.append(function(left.pop()))
    if left:
        with ThreadPoolExecutor(2 * grader.workers) as threads:
            done += threads.map(function, left[::-1])
    return done
