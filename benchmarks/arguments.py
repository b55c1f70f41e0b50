"""A command line whose errors are one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from mathgrpo.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, raised as UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")
