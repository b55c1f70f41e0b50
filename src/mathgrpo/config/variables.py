"""What a run takes from environment variables: how it is kept and shown on this machine, not what it learns."""

from __future__ import annotations

import os

from mathgrpo.errors import UserError

KEEP_CHECKPOINTS, LOG_GROUPS = "MATHGRPO_KEEP_CHECKPOINTS", "MATHGRPO_LOG_GROUPS"
PEER_TIMEOUT, PROJECT = "MATHGRPO_PEER_TIMEOUT_S", "MATHGRPO_PROJECT"


def kept_checkpoints() -> int:
    """Return how many checkpoints of a run stay; older ones are removed."""
    return int(_number(KEEP_CHECKPOINTS, 2, least=1))


def logged_groups() -> int:
    """Return how many groups of completions are written to rollouts.jsonl each step."""
    return int(_number(LOG_GROUPS, 4, least=0))


def peer_timeout_s() -> float:
    """Return the seconds that one of several processes waits for another before the run ends with an error."""
    return _number(PEER_TIMEOUT, 1800, least=1)


def tracker_project() -> str:
    """Return the project under which trackers file a run."""
    return os.environ.get(PROJECT) or "mathgrpo"


def _number(name: str, default: float, *, least: float) -> float:
    """Return the number in a variable.

    Raises: UserError when it holds something else, or a smaller number.
    """
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = least - 1
    if not least <= value < 1e9:
        raise UserError(f"{name}={text}: not a number of {least:g} or more; set one, or leave the variable unset")
    return value
