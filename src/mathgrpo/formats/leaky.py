"""The prompt that shows the solution, for comparing with runs that were trained so."""

from __future__ import annotations

from mathgrpo.errors import UserError
from mathgrpo.formats.format import Format
from mathgrpo.types import Problem


def leaky_turn(problem: Problem, fmt: Format) -> str:
    """Return the user turn of a problem in a leaky format: the question, then its solution and answer as written.

    Raises:
        UserError: the problem has no worked solution to show.
    """
    if not problem.solution:
        raise UserError(
            f'format.name="{fmt.name}": it shows each worked solution in the prompt, and the problem '
            f'{problem.question[:60]!r} has none; name problems.columns.solution, or use format.name="think"'
        )
    return fmt.user_turn(problem.question) + "\n\n" + fmt.write(problem.solution, problem.answer)
