"""mathgrpo solve."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mathgrpo.cli.chosen_suite import Correct
from mathgrpo.cli.options import (
    Columns,
    Device,
    FormatName,
    Model,
    Plain,
    TemplateArguments,
    chosen_format,
    open_policy,
    refuse_idle,
    require_appendable,
    run_recipe,
)
from mathgrpo.cli.solve_problems import solve_problems
from mathgrpo.errors import UserError
from mathgrpo.files import readable
from mathgrpo.types import Sampling

if TYPE_CHECKING:
    from mathgrpo.config.recipe import FormatSection
    from mathgrpo.formats import Format
    from mathgrpo.serving.stream import Streamer

FOR_PROBLEMS = {name: f"--{name}" for name in ("split", "samples", "keep", "correct", "limit")} | {"columns": "--set"}
"""Options that only --problems reads."""


def solve_command(
    ctx: typer.Context,
    model: Model,
    question: Annotated[
        str, typer.Argument(help="The question; without one, each line of standard input is one.")
    ] = "",
    file: Annotated[Path | None, typer.Option("--file", help="Read questions from this file, one a line.")] = None,
    problems: Annotated[
        str, typer.Option(help="Write graded traces for problems instead: generated, a file or folder, or a hub id.")
    ] = "",
    split: Annotated[str, typer.Option(help="Their split, or file stem in a folder.")] = "train",
    columns: Columns = None,
    samples: Annotated[int, typer.Option(help="Completions of each of them.", min=1)] = 8,
    keep: Annotated[Literal["correct", "all"], typer.Option(help="Traces to write: correct or all.")] = "correct",
    correct: Correct = "",
    limit: Annotated[int, typer.Option(help="Problems at most, the first ones; default: all.", min=0)] = 0,
    jsonl: Annotated[
        Path | None, typer.Option("--jsonl", help="Append question, reasoning, answer and settings to this file.")
    ] = None,
    fmt: FormatName = "",
    template: TemplateArguments = "",
    temperature: Annotated[
        float | None, typer.Option(help="0: always the likeliest token; default: 0, for problems 1.", min=0.0, max=5.0)
    ] = None,
    top_p: Annotated[float, typer.Option(help="Probability mass that is sampled from.", min=0.01, max=1.0)] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.", min=0)] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens at most.", min=1)] = 512,
    device: Device = "auto",
    plain: Plain = False,
) -> None:
    """Ask a model, and watch it reason.

    \b
    Examples:
      mathgrpo solve starter "A tower is made out of 4 pink cubes, 2 times as many black cubes, and an unknown number of green cubes. If there are 16 cubes in the tower in total, how many green cubes are there?"
      mathgrpo solve runs/my-run --file questions.txt --jsonl answers.jsonl
      mathgrpo solve runs/my-run --problems data/gsm8k --samples 8 --keep correct --jsonl traces.jsonl
    """  # noqa: E501  a question is one argument, and a shorter one the starter guesses
    other, late = "a question" if question else "--problems", "--problems" if question and problems else "--file"
    if (question and problems) or ((question or problems) and file is not None):
        raise UserError(f"{late}: {other} is given too; give one or the other")
    warmth = temperature if temperature is not None else 1.0 if problems else 0.0
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=warmth, top_p=top_p, seed=seed)
    form = chosen_format(run_recipe(model).format, fmt, template)
    if problems:
        solve_problems(
            model, problems, split, limit, form, sampling, jsonl, samples=samples, keep=keep, device=device,
            plain=plain, correct=correct, columns=columns or (),
        )  # fmt: skip
        return
    refuse_idle(ctx, FOR_PROBLEMS, "is for --problems; a question gets one answer")
    if jsonl is not None:
        require_appendable("--jsonl", jsonl)
    with readable("question"):
        question.encode()
    questions = iter([question]) if question else _questions(file)
    for record in _answers(model, questions, form, sampling, device, plain=plain, show=not question):
        if jsonl is not None:
            _append(jsonl, record)


def _answers(
    model: str,
    questions: Iterator[str],
    form: FormatSection,
    sampling: Sampling,
    device: str,
    *,
    plain: bool,
    show: bool,
) -> Iterator[dict[str, Any]]:
    """Yield the record of each question when it is answered."""
    from mathgrpo.answers.prompt_check import require_answerable
    from mathgrpo.formats import format_of
    from mathgrpo.serving.stream import Streamer

    chosen, policy = format_of(form), open_policy(model, device)
    require_answerable(policy.tokenizer, chosen)
    streamer = Streamer(policy, native=not plain)
    for text in questions:
        yield answer_question(streamer, text, chosen, sampling, show_question=show)


def answer_question(
    streamer: Streamer, question: str, fmt: Format, sampling: Sampling, *, show_question: bool
) -> dict[str, Any]:
    """Return question, reasoning, answer and settings, after the completion has been shown as it was drawn."""
    from dataclasses import asdict, replace

    from mathgrpo.formats.chat import encode_prompt
    from mathgrpo.text import printable
    from mathgrpo.types import Problem

    policy = streamer.policy
    prompt = encode_prompt(policy.tokenizer, Problem(question=question, answer=""), fmt)
    room = policy.max_context - len(prompt.ids)
    if room < 1:
        raise UserError(
            f"question: its prompt has {len(prompt.ids)} tokens, the model's context {policy.max_context}; shorten it"
        )
    if show_question:
        print(f"question: {printable(question)}")
    tokens: list[int] = []
    completion = ""
    limited = replace(sampling, max_new_tokens=min(room, sampling.max_new_tokens))
    for piece in streamer.text(prompt, limited, tokens):
        completion += piece
        print(printable(piece), end="", flush=True)
    parsed = fmt.parse(completion, opened=prompt.opened, question=question)
    ended = bool(tokens) and tokens[-1] in policy.eos_ids
    none = "none in the format" + ("" if ended else ", cut at the token limit")
    shown = none if parsed.answer is None else printable(parsed.answer)
    print(f"\nanswer: {shown}" + "\n" * show_question, flush=True)
    return {
        "question": question, "reasoning": parsed.reasoning, "answer": parsed.answer, "completion": completion,
        "tokens": len(tokens), "finish_reason": "eos" if ended else "length",
        "settings": {"model": policy.name, "format": fmt.name, **asdict(sampling)},
    }  # fmt: skip


def _questions(file: Path | None) -> Iterator[str]:
    """Return the questions of a file or of standard input, one a line; empty lines are skipped."""
    if file is None:
        return _typed_questions()
    with readable(f"--file {file}"):
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise UserError(f"--file {file}: there is no question in it; write one a line")
    return iter(lines)


def _typed_questions() -> Iterator[str]:
    """Yield questions from standard input as they come; in a terminal, ask for them."""
    asked = sys.stdin.isatty()
    while True:
        if asked:
            print("question> ", end="", flush=True)
        with readable("standard input"):
            line = sys.stdin.readline()
            line.encode()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _append(path: Path, record: dict[str, Any]) -> None:
    from mathgrpo.files import append_whole, to_json

    try:
        append_whole(path, (to_json(record) + "\n").encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(f"--jsonl {path}: cannot be written ({error.strerror}); choose another file") from error
