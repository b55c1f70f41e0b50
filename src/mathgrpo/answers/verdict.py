"""The words a grader may answer with."""

from __future__ import annotations

from typing import Literal

Verdict = Literal["correct", "wrong", "no_answer", "unreadable", "timeout", "error"]
"""correct and wrong: answer and gold were both read. no_answer: there is no single final answer. unreadable: there is
one, but not in a form the grader reads. timeout and error: the grader failed, which is counted and never in silence."""
