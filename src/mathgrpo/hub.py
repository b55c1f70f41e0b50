"""Whether the model hub answers, asked once and quickly, so that no network means one clear line at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def offline_if_unreachable(wanted: bool) -> Iterator[None]:
    """Switch the hub libraries to their offline mode if the hub is wanted but does not answer.

    A cached copy is found then, and a missing one fails at once; without it they repeat every request for half a
    minute and write each try to the terminal.
    """
    from huggingface_hub import constants

    offline = wanted and not is_reachable()
    datasets_config = getattr(sys.modules.get("datasets"), "config", None)
    owners: list[Any] = [owner for owner in (constants, datasets_config) if owner is not None]
    before = [owner.HF_HUB_OFFLINE for owner in owners]
    for owner in owners:
        owner.HF_HUB_OFFLINE = offline or owner.HF_HUB_OFFLINE
    try:
        yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            owner.HF_HUB_OFFLINE = value


def is_reachable(timeout_s: float = 5.0) -> bool:
    """Return whether the hub answers at all, whatever the status."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=timeout_s)  # refused in offline mode, before it is asked
    except Exception:  # the errors of the library's own client, whichever that is
        return False
    return True
