"""The command `mathgrpo`. Nothing heavy is imported before a command runs."""

from mathgrpo.cli.app import main

__all__ = ["main"]
