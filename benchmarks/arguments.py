"""A command line whose errors are one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from mathgrpo.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, raised as UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


@contextmanager
def errors_told() -> Iterator[None]:
    """Say a UserError in one line, and end with exit code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
