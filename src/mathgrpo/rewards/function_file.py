"""A user's own reward function, found in a local Python file by "file.py:function"."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType

from mathgrpo.errors import UserError, did_you_mean
from mathgrpo.rewards.call_faults import describe
from mathgrpo.rewards.checked_calls import RewardFunction

MAX_NAMES = 20
"""Functions of a file that an error names."""
_loaded: dict[tuple[Path, int, int], ModuleType] = {}
"""File, with its time and size -> its module: two rewards of a file share what it loads, an edited file is new."""


def load_reward(name: str) -> RewardFunction:
    """Return the function that "file.py:function" names.

    Raises:
        UserError: no such file or function, or the file does not load.
    """
    file, _, function_name = name.rpartition(":")
    path = Path(os.path.expanduser(file))  # noqa: PTH111, which raises for the ~ of a user that there is not
    if path.suffix != ".py" or not path.is_file():
        raise UserError(
            f'rewards."{name}": no such file {file or "(none named)"}; '
            "write it as path/to/file.py:function, a path from the current folder"
        )
    module = _load_module(name, path)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f'rewards."{name}": {path.name} has no function "{function_name}"{_there_are(module, name)}')
    return function  # type: ignore[no-any-return]


def _there_are(module: ModuleType, name: str) -> str:
    """Return in words which functions a file has, and which is meant."""
    own = [
        key
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
    ]
    hint = did_you_mean(name.rpartition(":")[2], own) or ";"
    more = ", …" if len(own) > MAX_NAMES else ""
    return f"{hint} its functions: {', '.join(sorted(own)[:MAX_NAMES]) or 'none'}{more}"


def _load_module(name: str, path: Path) -> ModuleType:
    """Return a file as a module, from memory when it has not changed. Files beside it can be imported as it loads."""
    state, place = path.stat(), path.resolve()
    key = (place, state.st_mtime_ns, state.st_size)
    if key in _loaded:
        return _loaded[key]
    module_name = f"mathgrpo_reward_{path.stem}_{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look a class's module up there
    sys.path.append(str(place.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        del sys.modules[module_name]
        raise UserError(f'rewards."{name}": {path.name} does not load: {describe(error)}') from error
    finally:
        sys.path.remove(str(place.parent))
    _loaded[key] = module
    return module
