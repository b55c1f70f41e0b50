"""mathgrpo solve."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mathgrpo.cli.options import Device, FormatName, Model, Plain, refuse_idle, require_appendable
from mathgrpo.cli.solve_problems import TraceRequest, solve_problems
from mathgrpo.errors import UserError
from mathgrpo.types import Sampling

if TYPE_CHECKING:
    from mathgrpo.formats import Format
    from mathgrpo.serving.stream import Streamer

FOR_PROBLEMS = {name: f"--{name}" for name in ("split", "samples", "keep", "limit")}
"""Options that only --problems reads."""


class Keep(StrEnum):
    """Which traces of problems are written."""

    correct = "correct"
    all = "all"


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
    samples: Annotated[int, typer.Option(help="Completions of each of them.", min=1)] = 8,
    keep: Annotated[Keep, typer.Option(help="Traces to write: correct or all.")] = Keep.correct,
    limit: Annotated[int, typer.Option(help="Problems at most, the first ones; default: all.", min=0)] = 0,
    jsonl: Annotated[
        Path | None, typer.Option("--jsonl", help="Append question, reasoning, answer and settings to this file.")
    ] = None,
    fmt: FormatName = "",
    temperature: Annotated[
        float | None, typer.Option(help="0: always the likeliest token; default: 0, for problems 1.", min=0.0, max=5.0)
    ] = None,
    top_p: Annotated[
        float, typer.Option(help="Smallest probability mass that is sampled from.", min=0.01, max=1.0)
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.", min=0)] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens at most.", min=1)] = 512,
    device: Device = "auto",
    plain: Plain = False,
) -> None:
    """Ask a model, and watch it reason.

    \b
    Examples:
      mathgrpo solve starter "Tom has 12 apples and buys 7 more. How many has he?"
      mathgrpo solve runs/my-run --file questions.txt --jsonl answers.jsonl
      mathgrpo solve runs/my-run --problems data/gsm8k --samples 8 --keep correct --jsonl traces.jsonl
    """
    if question and (file is not None or problems):
        raise UserError(f"{'--problems' if problems else '--file'}: a question is given too; give one or the other")
    if problems:
        if file is not None:
            raise UserError("--file: --problems is given too; give one or the other")
        request = TraceRequest(
            model, problems, split=split, samples=samples, keep=keep.value, limit=limit, fmt=fmt, top_p=top_p,
            temperature=1.0 if temperature is None else temperature, seed=seed, max_new_tokens=max_new_tokens,
            device=device, plain=plain,
        )  # fmt: skip
        solve_problems(request, jsonl)
        return
    refuse_idle(ctx, FOR_PROBLEMS, "is for --problems; a question gets one answer")
    if jsonl is not None:
        require_appendable("--jsonl", jsonl)
    questions = [require_utf8(question)] if question else _questions(file)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature or 0.0, top_p=top_p, seed=seed)
    streamer, chosen = _loaded(model, fmt, device, plain=plain)
    for text in questions:
        record = answer_question(streamer, text, chosen, sampling, show_question=not question)
        if jsonl is not None:
            _append(jsonl, record)


def _loaded(model: str, fmt: str, device: str, *, plain: bool) -> tuple[Streamer, Format]:
    """Return the model, ready to answer, and the format to ask it in."""
    from mathgrpo.cli.libraries import quiet_libraries
    from mathgrpo.cli.run_defaults import run_recipe
    from mathgrpo.config.recipe import ModelSection
    from mathgrpo.formats import get_format
    from mathgrpo.models import load_policy
    from mathgrpo.serving.stream import Streamer

    chosen = get_format(fmt or run_recipe(model).format.name)
    quiet_libraries()
    return Streamer(load_policy(ModelSection(path=model), device, train=False), native=not plain), chosen


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
    pieces = []
    limited = replace(sampling, max_new_tokens=min(room, sampling.max_new_tokens))
    for piece in streamer.text(prompt, limited, tokens):
        pieces.append(piece)
        print(printable(piece), end="", flush=True)
    completion = "".join(pieces)
    parsed = fmt.parse(completion)
    ended = bool(tokens) and tokens[-1] in policy.eos_ids
    shown = (
        printable(parsed.answer)
        if parsed.answer is not None
        else "none in the format" + ("" if ended else ", cut at the token limit")
    )
    print(f"\nanswer: {shown}\n" if show_question else f"\nanswer: {shown}", flush=True)
    return {
        "question": question, "reasoning": parsed.reasoning, "answer": parsed.answer, "completion": completion,
        "tokens": len(tokens), "finish_reason": "eos" if ended else "length",
        "settings": {"model": policy.name, "format": fmt.name, **asdict(sampling)},
    }  # fmt: skip


def _questions(file: Path | None) -> Iterator[str]:
    """Yield the questions of a file or of standard input, one a line; empty lines are skipped."""
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(f"--file {file}: cannot be read ({error.strerror}); check the path") from error
        except UnicodeDecodeError as error:
            raise UserError(f"--file {file}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
        if not any(line.strip() for line in lines):
            raise UserError(f"--file {file}: there is no question in it; write one a line")
        return (line.strip() for line in lines if line.strip())
    return _typed_questions()


def _typed_questions() -> Iterator[str]:
    """Yield questions from standard input as they come; in a terminal, ask for them."""
    asked = sys.stdin.isatty()
    while True:
        if asked:
            print("question> ", end="", flush=True)
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise UserError(f"standard input: byte {error.start} is not UTF-8; send it as UTF-8") from error
        if not line:
            return
        if line.strip():
            yield require_utf8(line.strip())


def require_utf8(question: str) -> str:
    """Return the question; the shell and standard input can bring bytes that are no text.

    Raises: UserError when they did.
    """
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"question: character {error.start + 1} is not UTF-8; write it as UTF-8") from error
    return question


def _append(path: Path, record: dict[str, Any]) -> None:
    from mathgrpo.files import append_whole, to_json

    try:
        append_whole(path, (to_json(record) + "\n").encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(f"--jsonl {path}: cannot be written ({error.strerror}); choose another file") from error
