"""All pages: links lead somewhere, names in the code exist, quoted code is the code, commands are accepted."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import textwrap
from pathlib import Path

import pytest
import typer

from mathgrpo.cli.app import app
from mathgrpo.config import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMMANDS = typer.main.get_command(app)


def text_of(page: Path) -> str:
    """Return a page's text, or that of a notebook's Markdown cells."""
    if page.suffix == ".md":
        return page.read_text(encoding="utf-8")
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def every(pattern: str, pages: list[Path], flags: int = 0) -> list[tuple[str, str]]:
    """Return (page, match) for every match, each pair once."""
    found = [
        (page.relative_to(ROOT).as_posix(), match)
        for page in pages
        for match in re.findall(pattern, text_of(page), flags)
    ]
    return list(dict.fromkeys(found))


LINKS = [
    (page, link) for page, link in every(r"\]\(([^)\s]+)\)", [*PAGES, *NOTEBOOKS]) if not re.match(r"[a-z]+:", link)
]
NAMES = every(r"`(mathgrpo(?:\.\w+)+)`", PAGES)
FOLDERS = (
    "src|tests|docs|recipes|notebooks|benchmarks|training|grpo|rollout|hardware|problems|formats|answers|rewards|models"
    "|evaluation|report|config|cli|trainer|serving"
)
FILES = [  # CONTRIBUTING names files that would be new
    pair
    for pair in every(rf"`((?:{FOLDERS})/[\w./-]*\.(?:py|md|toml|ipynb|c|h))`", PAGES)
    if pair[0] != "CONTRIBUTING.md"
]
QUOTES = every(r"```python\n# (src/\S+\.py)\n(.*?)```", PAGES, re.DOTALL)
BLOCKS = every(r"```(?:bash|sh|)\n(.*?)```", [*PAGES, *NOTEBOOKS], re.DOTALL)
CALLS = list(dict.fromkeys(
    line for _, block in BLOCKS for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"(?:\.venv/bin/)?mathgrpo ", line)
))  # fmt: skip

INLINE = [pair for pair in every(r"`(mathgrpo [a-z][^`\n]*)`", [*PAGES, *NOTEBOOKS]) if "=" not in pair[1]]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=[f"{page}-{link}" for page, link in LINKS])
def test_a_link_leads_somewhere(page: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    assert target.exists(), f"{page} links to {link}"
    if anchor and target.suffix == ".md":
        assert anchor in anchors(text_of(target)), f"{page} links to {link}"


@pytest.mark.parametrize(("page", "name"), NAMES, ids=[f"{page}-{name}" for page, name in NAMES])
def test_a_name_is_in_the_code(page: str, name: str) -> None:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return
    pytest.fail(f"{page} names {name}, which is not there")


@pytest.mark.parametrize(("page", "name"), FILES, ids=[f"{page}-{name}" for page, name in FILES])
def test_a_file_that_is_named_exists(page: str, name: str) -> None:
    assert (ROOT / name).exists() or (ROOT / "src" / "mathgrpo" / name).exists(), f"{page} names {name}"


@pytest.mark.parametrize(("page", "quote"), QUOTES, ids=[f"{page}-{i}" for i, (page, _) in enumerate(QUOTES)])
def test_quoted_code_is_the_code(page: str, quote: tuple[str, str]) -> None:
    path, code = quote
    source = textwrap.dedent((ROOT / path).read_text(encoding="utf-8"))
    lines = [line.strip() for line in source.splitlines()]
    wanted = [line.strip() for line in code.strip().splitlines()]
    assert any(lines[i : i + len(wanted)] == wanted for i in range(len(lines))), f"{page} quotes {path}:\n{code}"


def test_there_is_something_to_check() -> None:
    assert len(LINKS) >= 40 and len(NAMES) >= 20 and len(CALLS) >= 10 and len(INLINE) >= 25 and len(QUOTES) >= 5


@pytest.mark.parametrize("call", CALLS)
def test_a_command_is_accepted(call: str) -> None:
    """Command, options, their values and overrides of a documented call are known; nothing is run."""
    name, *arguments = shlex.split(call, comments=True)[1:]
    if name.startswith("-"):
        return
    context = COMMANDS.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
    recipe = context.params.get("recipe")
    if name == "train" and recipe and not recipe.startswith("runs/"):
        load_recipe(recipe, context.params.get("overrides") or [])


@pytest.mark.parametrize(("page", "call"), INLINE, ids=[f"{page}-{call}" for page, call in INLINE])
def test_a_command_in_a_sentence_is_known(page: str, call: str) -> None:
    name, *words = call.split()[1:]
    options = {option for parameter in COMMANDS.commands[name].params for option in parameter.opts}  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= options | {"--help"}, f"{page}: {call}"


def test_the_readme_lists_every_command() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Commands", 1)[1].split("##", 1)[0]
    assert set(re.findall(r"^\| `mathgrpo ([\w-]+)", table, re.MULTILINE)) == set(COMMANDS.commands)  # type: ignore[attr-defined]
