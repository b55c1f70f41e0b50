"""mathgrpo grade."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mathgrpo.answers.graded_text import GradedText

_OPTION = re.compile("--[a-z-]+(=.*)?")


def grade_command(
    text: Annotated[str, typer.Argument(help="An answer, or a whole completion; -: standard input.")],
    gold: Annotated[str, typer.Option("--gold", help="The gold answer.")],
    question: Annotated[
        str, typer.Option("--question", help="The question: whether it asks for a percentage, and its own boxes.")
    ] = "",
    format_name: Annotated[
        str, typer.Option("--format", metavar="NAME", help="Read TEXT as a completion in this response format.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the verdict on an answer: what was read, by which rule it was compared with the gold, and why.

    Of a completion the answer is found first: where a format has it, or in tags, a box, behind ####, or as it is said.

    \b
    Examples:
      mathgrpo grade "1,260 eggs" --gold 1260
      mathgrpo grade "\\frac{1}{2}" --gold 0.5 --json
      mathgrpo grade "50%" --gold 50 --question "What percentage is left?"
      mathgrpo grade "<think>9*2=18</think><answer>18</answer>" --gold 18 --format think
    """
    from mathgrpo.answers.graded_text import grade_text
    from mathgrpo.cli.score_text import require_gold
    from mathgrpo.errors import UserError
    from mathgrpo.formats import FORMATS

    if _OPTION.fullmatch(text):
        raise UserError(f"{text}: no such option; use --gold, --question, --format or --json")
    require_gold("--gold", gold)
    if format_name and format_name not in FORMATS:
        raise UserError(f"--format {format_name}: no such format; use {', '.join(FORMATS)}")
    given = sys.stdin.read() if text == "-" else text
    found = grade_text(given, gold, question=question, fmt=FORMATS.get(format_name))
    if as_json:
        print(json.dumps(_record(found, gold), ensure_ascii=True))
    else:
        print("\n".join(_lines(found, gold)))


def _record(found: GradedText, gold: str) -> dict[str, Any]:
    """Return what there is to say of a verdict, as a JSON object."""
    verdict, graded = found.verdict, found.graded
    record: dict[str, Any] = {
        "outcome": verdict.outcome, "read": verdict.read, "where": found.where, "rule": verdict.rule,
        "why": verdict.why, "gold": gold,
    }  # fmt: skip
    if graded is not None:
        record |= {
            "format_strict": graded.format_strict, "format_soft": graded.format_soft, "reasoning": graded.reasoning,
            "flexible": {"outcome": graded.flexible_verdict.outcome, "read": graded.found, "at": graded.found_at},
        }  # fmt: skip
    return record


def _lines(found: GradedText, gold: str) -> list[str]:
    from mathgrpo.answers.graded_text import PLACES
    from mathgrpo.cli.score_text import columns
    from mathgrpo.text import quoted, wrapped

    verdict, graded = found.verdict, found.graded
    facts = {
        "outcome": verdict.outcome.replace("_", " "),
        "read": f"{quoted(verdict.read)}, {found.where}" if verdict.read else "",
        "gold": quoted(gold),
        "rule": verdict.rule,
        "why": verdict.why,
    }
    if graded is not None:
        layout = (
            "exactly the asked one" if graded.format_strict else "tolerated" if graded.format_soft else "not kept to"
        )
        facts["layout"] = layout
        if graded.answer is None and graded.found is not None:
            outside = f"{quoted(graded.found)}, {PLACES[graded.found_at]}: {graded.flexible_verdict}"
            facts["outside"] = outside
    return [line for name, fact in facts.items() if fact for line in wrapped(f"{name:<10}", fact, columns())]
