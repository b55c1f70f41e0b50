"""The worked examples of CONTRIBUTING.md run as they stand."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"## (How to add [^\n]+)\n.*?```python\n(.*?)```", TEXT, re.DOTALL)


def test_there_is_one_for_each_extension_point() -> None:
    assert [title for title, _ in BLOCKS] == [
        f"How to add a {thing}" for thing in ("reward", "format", "problem source", "loss")
    ]


@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_the_example_runs(title: str, code: str) -> None:
    assert "assert " in code
    exec(compile(code, title, "exec"), {"__name__": "example"})  # noqa: S102  our own documentation
