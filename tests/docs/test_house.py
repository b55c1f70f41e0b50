"""What CONTRIBUTING asks of every file: told from the sources, so that a newcomer can trust it."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "mathgrpo"
FILES = {path: path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))}

MOST_LINES = 300
MOST_LINES_OF_A_FUNCTION = 60


def test_files_and_functions_are_short() -> None:
    functions = {
        (path.name, node.name): (node.end_lineno or 0) - node.lineno + 1
        for path, text in FILES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(functions) > 1000
    assert not [name for name, lines in functions.items() if lines > MOST_LINES_OF_A_FUNCTION]
    assert not [path.name for path, text in FILES.items() if len(text.splitlines()) > MOST_LINES]


def test_a_name_in_a_listing_is_one_thing() -> None:
    folders = [folder.name for folder in PACKAGE.rglob("*") if (folder / "__init__.py").is_file()]
    names = Counter([path.stem for path in FILES if path.stem not in ("__init__", "__main__")] + folders)
    assert not [name for name, times in names.items() if times > 1]


def test_the_import_contract_has_no_exceptions() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    assert all("ignore_imports" not in contract for contract in settings["contracts"])
    folders = {f"mathgrpo.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    layered = {name for contract in settings["contracts"] for name in contract.get("layers", ())}
    assert folders <= layered


def test_the_update_knows_the_types_it_passes() -> None:
    update = [text for path, text in FILES.items() if path.is_relative_to(PACKAGE / "update")]
    assert update and not [text[:80] for text in update if "policy: Any" in text or "groups: Any" in text]
