"""Thinking that stands before a layout, and what of a completion its prompt has begun already."""

from __future__ import annotations

THINKING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
)
"""How models mark their thinking, opening and closing."""
BEGINNINGS = (*THINKING, ("<reasoning>", "</reasoning>"), ("<start_working_out>", "<end_working_out>"))
"""What a chat template may open for the model: thinking, or the reasoning of a format here."""


def split_thinking(text: str, own: str = "", *, begun: bool = True) -> tuple[str | None, str]:
    """Return the thinking that a text begins with, None without one, and the text behind it.

    Thinking that never ends is all there is: "" is behind it.

    Args:
        own: the opening tag of the layout's own reasoning, which is no thinking before it.
        begun: a closing mark without its opening one ends what the prompt has begun.

    Example:
        >>> split_thinking("<think>2 + 2</think>\\n4"), split_thinking("2 + 2</think>4"), split_thinking("4")
        (('2 + 2', '4'), ('2 + 2', '4'), (None, '4'))
    """
    for opening, closing in THINKING:
        if opening == own:
            continue
        inner, ended, rest = text.partition(closing)
        if inner.lstrip().startswith(opening):
            return inner.lstrip()[len(opening) :].strip(), rest.lstrip() if ended else ""
        if ended and begun and opening not in inner:
            return inner.strip(), rest.lstrip()
    return None, text


def opened_in(end: str, begun: str = "") -> str:
    r"""Return what a prompt has opened of the answer: from a thinking tag on that it leaves open, else what is begun.

    end: of the prompt, behind the last question. begun: the assistant's turn that it continues.

    Example:
        >>> opened_in("<|end|>\n<|assistant|><think>\n"), opened_in("<|assistant|><think>\n\n</think>\n\n")
        ('<think>\n', '')
    """
    own = end.rfind(begun.strip()) if begun.strip() else -1
    before = end if own < 0 else end[:own]
    left_open = [
        place
        for opening, closing in BEGINNINGS
        if (place := before.rfind(opening)) >= 0 and closing not in before[place:]
    ]
    return end[min(left_open, default=len(before)) :]


def opened_at_end(text: str) -> str:
    r"""Return the thinking tag that a text ends with, and the space behind it; "" without one.

    Example:
        >>> opened_at_end("<|assistant|><think>\n"), opened_at_end("<think> is a tag")
        ('<think>\n', '')
    """
    found = next((opening for opening, _ in BEGINNINGS if text.rstrip().endswith(opening)), "")
    return text[text.rindex(found) :] if found else ""


def behind(opened: str, completion: str) -> str:
    r"""Return what is left to write of a completion where the prompt has opened a part of it already.

    A thinking tag that the completion does not begin with is closed before it.

    Example:
        >>> behind("<think>\n", "<think>\n2 + 2 = 4\n</think>"), behind("<think>\n", "\\boxed{4}")
        ('2 + 2 = 4\n</think>', '</think>\n\n\\boxed{4}')
    """
    begun = opened.strip()
    if begun and completion.startswith(begun):
        rest = completion.removeprefix(begun)
        return rest if opened.endswith(begun) else rest.lstrip()
    closing = next((closing for opening, closing in BEGINNINGS if opened.startswith(opening)), "")
    return f"{closing}\n\n{completion}" if closing else completion
