"""How well and how fast answers are graded: this project beside math-verify, equal text and the last number.

python -m benchmarks.grading [--pairs FILE ...] [--golds FILE] [--no-peer] [--no-speed] [--out DIR]
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.arguments import Parser, errors_told
from benchmarks.grading_page import (
    GROUP,
    MAX_SHOWN,
    PAGE,
    RESULTS,
    Golds,
    GradingResults,
    Pair,
    Score,
    Speed,
    figures,
    with_figures,
)
from benchmarks.grading_peer import MathVerify
from benchmarks.machine import machine_facts, versions
from mathgrpo.answers import gold_problem, grade
from mathgrpo.answers.near_misses import near_misses
from mathgrpo.answers.side_by_side import side_by_side
from mathgrpo.errors import UserError
from mathgrpo.files import read_json_lines, to_json
from mathgrpo.formats.layouts import box_contents

PAIRS = Path(__file__).parent / "grading_pairs"
OURS, PEER = "mathgrpo", "math-verify"
_LAST_NUMBER = re.compile(r"-?[0-9][0-9,]*(?:\.[0-9]+)?", re.ASCII)


def read_pairs(path: Path) -> list[Pair]:
    """Return the pairs of a JSON Lines file. Raises: UserError that names the line that is none."""
    pairs = []
    for number, row in read_json_lines(path):
        try:
            pairs.append(Pair(**{"family": path.stem, **row}))
        except (TypeError, ValueError) as error:
            reason = str(error).replace("\n", " ")[:200]
            raise UserError(
                f'{path}:{number}: must have "answer", "gold" and "want", correct or wrong: {reason}'
            ) from None
    return pairs


def ours(pair: Pair) -> bool:
    """Return whether this project pays an answer; no gold that a run would refuse pays."""
    return gold_problem(pair.gold) is None and grade(pair.answer, pair.gold, question=pair.question) == "correct"


def same_text(pair: Pair) -> bool:
    """Return whether answer and gold are the same text."""
    return pair.answer.strip() == pair.gold.strip()


def same_last_number(pair: Pair) -> bool:
    """Return whether the last numbers of answer and gold are equal, the usual rule of scripts for GSM8K."""
    found = [_LAST_NUMBER.findall(text) for text in (pair.answer, pair.gold)]
    return all(found) and len({float(numbers[-1].replace(",", "")) for numbers in found}) == 1


def scored(
    name: str, family: str, pairs: Sequence[Pair], pay: Callable[[Sequence[Pair]], list[bool]]
) -> tuple[Score, list[Pair]]:
    """Return a grader's score on pairs, and those on which it is not of a mathematician's mind."""
    start = time.perf_counter()
    paid = pay(pairs)
    seconds = time.perf_counter() - start
    missed = [pair for pair, pays in zip(pairs, paid, strict=True) if pays != (pair.want == "correct")]
    right = sum(pair.want == "correct" for pair in pairs)
    unpaid = sum(pair.want == "correct" for pair in missed)
    score = Score(
        family=family, grader=name, right=right, wrong=len(pairs) - right, right_unpaid=unpaid,
        wrong_paid=len(missed) - unpaid, seconds=seconds,
    )  # fmt: skip
    return score, missed


def check_golds(path: Path) -> Golds:
    """Return what becomes of a data set's golds: the field "answer", else the last box of "solution"."""
    golds = list(dict.fromkeys(gold for _, row in read_json_lines(path) if (gold := _gold(row))))
    start = time.perf_counter()
    problems = side_by_side(gold_problem, golds)
    itself = side_by_side(lambda gold: grade(gold, gold) == "correct", golds)
    seconds = time.perf_counter() - start
    mutants = [(text, gold) for gold in golds for text in near_misses(gold).values()]
    paid = side_by_side(lambda pair: grade(*pair) == "correct", mutants)
    return Golds(
        file=path.name, golds=len(golds), seconds=seconds, mutants=len(mutants),
        refused=tuple(f"{gold}: {why}" for gold, why in zip(golds, problems, strict=True) if why),
        not_equal_to_itself=tuple(gold for gold, same in zip(golds, itself, strict=True) if not same),
        mutants_paid=tuple(f"{text} for {gold}" for (text, gold), pays in zip(mutants, paid, strict=True) if pays),
    )  # fmt: skip


def _gold(row: dict[str, Any]) -> str:
    boxes = box_contents(str(row.get("solution", "")))
    return str(row.get("answer") or (boxes[-1] if boxes else "")).strip()


def speeds(hostile: Sequence[Pair], peer: MathVerify | None) -> list[Speed]:
    """Return how long whole numbers, new LaTeX pairs and a group of 16 hostile answers take."""
    integers = [Pair(answer=str(n), gold=str(n + n % 2), want="wrong") for n in range(10_000, 110_000)]
    apart = [(f"\\frac{{{n}\\sqrt{{3}}}}{{7}}", f"\\frac{{{n}}}{{7}}\\sqrt{{{n % 9 + 2}}}") for n in range(1000)]
    latex = [Pair(answer=answer, gold=gold, want="wrong") for answer, gold in apart]
    modest = [(f"(\\sin x+\\cos x)^{{{n}}}", "\\sqrt{2}x+1") for n in range(40, 40 + GROUP)]
    slow = [Pair(answer=answer, gold=gold, want="wrong") for answer, gold in modest]
    work = (
        ("whole numbers", integers, 2000), ("LaTeX pairs", latex, 200),
        (f"{GROUP} hostile answers", hostile[:GROUP], GROUP), (f"{GROUP} slow answers of modest size", slow, GROUP),
    )  # fmt: skip
    found = []
    for name, pairs, for_peer in work:
        start = time.perf_counter()
        side_by_side(lambda pair: grade(pair.answer, pair.gold), pairs)
        found.append(Speed(work=name, grader=OURS, done=len(pairs), seconds=time.perf_counter() - start))
        if peer is not None:
            start, killed = time.perf_counter(), peer.killed
            for pair in pairs[:for_peer]:
                peer.paid(pair.answer, pair.gold)
            seconds, done = time.perf_counter() - start, len(pairs[:for_peer])
            found.append(Speed(work=name, grader=PEER, done=done, seconds=seconds, killed=peer.killed - killed))
    return found


def measure(pairs: Sequence[Pair], golds: Sequence[Path], *, with_peer: bool, with_speed: bool) -> dict[str, Any]:
    """Return the measured fields of the results; hostile pairs are for speed, and for nobody to pay."""
    peer = MathVerify() if with_peer else None
    graders: dict[str, Callable[[Sequence[Pair]], list[bool]]] = {OURS: lambda given: side_by_side(ours, given)}
    if peer is not None:
        graders[PEER] = lambda given: [peer.paid(pair.answer, pair.gold) for pair in given]
    graders |= {"last number": lambda given: [*map(same_last_number, given)]}
    graders |= {"equal text": lambda given: [*map(same_text, given)]}
    scores, misses = [], []
    grade("\\sqrt{4}", "2"), grade("\\sqrt{2}", "\\sqrt{3}")  # starts the processes, which no family should pay for
    families = dict.fromkeys(pair.family for pair in pairs)
    for family in families:
        of_family = [pair for pair in pairs if pair.family == family]
        for name, pay in graders.items():
            if name != OURS and family == "hostile":
                continue
            score, missed = scored(name, family, of_family, pay)
            scores.append(score)
            misses += [f"{p.answer} for {p.gold}: {p.want} ({p.kind})" for p in missed if name == OURS]
    hostile = [pair for pair in pairs if pair.family == "hostile"]
    took = tuple(speeds(hostile, peer)) if with_speed else ()
    if peer is not None:
        peer.close()
    return {"scores": tuple(scores), "misses": tuple(misses), "speeds": took, "golds": tuple(map(check_golds, golds))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; bad arguments are one line and exit code 2."""
    with errors_told():
        _run(_parse(arguments))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.grading", description="How well and how fast answers are graded.")
    parser.add_argument("--pairs", type=Path, nargs="+", help="JSON Lines files of answer, gold, want; default: ours")
    parser.add_argument("--golds", type=Path, nargs="+", default=[], help="JSON Lines files with answer or solution")
    parser.add_argument("--no-peer", action="store_true", help="do not measure math-verify")
    parser.add_argument("--no-speed", action="store_true", help="do not measure speed")
    parser.add_argument("--out", type=Path, help="results file; by default none with --pairs or --golds")
    return parser.parse_args(arguments)


def _run(given: argparse.Namespace) -> None:
    begun = datetime.now().astimezone()
    own = not given.pairs and not given.golds
    files = given.pairs or ([] if given.golds else sorted(PAIRS.glob("*.jsonl")))
    pairs = [pair for path in files for pair in read_pairs(path)]
    found = measure(
        pairs, given.golds, with_peer=not given.no_peer and bool(pairs), with_speed=own and not given.no_speed
    )
    options = sys.argv[1:] if own else ["..."]
    results = GradingResults(
        date=begun.isoformat(timespec="seconds"), command=shlex.join(["python", "-m", "benchmarks.grading", *options]),
        machine=machine_facts("cpu"), versions={**versions(), "math-verify": _version()}, **found,
    )  # fmt: skip
    print(figures(results))
    if results.misses:
        print("\nNot as wanted:", *results.misses[:MAX_SHOWN], sep="\n- ")
    out = given.out or (RESULTS if own else None)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(to_json(results.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    if own and not given.out and PAGE.exists():
        PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


def _version() -> str:
    from importlib import metadata

    return metadata.version("math-verify")


if __name__ == "__main__":
    main()
