"""What `pack.sh` gathered for a machine without network: wheels, problems, a tokenizer, the revision."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mathgrpo.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".gpu-kit"
NEEDED = ("torch", "transformers", "peft", "typer", "rich", "jinja2", "matplotlib", "psutil", "pydantic", "tomli_w")
"""Packages without which stages fail; the others of a case are that case's own."""
PACKED = ("pydantic", "tomli_w")
"""Of those, what `pack.sh` brings; the others are the machine's own."""


def environment(carried: Path | None) -> dict[str, str]:
    """Return the environment of all stages: this one's, the checkout and the carried packages on Python's path.

    Wheels that do not fit this Python are left alone where it has all that is needed.

    Raises: UserError when packages are missing, and none were carried that fit.
    """
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    site = None
    try:
        site = installed_wheels(carried) if carried is not None else None
    except UserError as error:
        if absent:
            raise
        print(f"going on without what was carried: {error}", file=sys.stderr)
    missing = [name for name in absent if not _holds(site, name)]
    if missing:
        raise UserError(f"packages that are not there: {', '.join(missing)}; {_remedy(missing)}")
    paths = [*([str(site)] if site else []), str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip


def installed_wheels(carried: Path) -> Path | None:
    """Return a folder with the carried wheels unpacked; None when there are none. Unpacked once, for later runs too."""
    wheels = sorted(carried.glob("wheels/*.whl"))
    if not wheels:
        return None
    facts = [f"{wheel.name} {wheel.stat().st_size}" for wheel in wheels]
    mark = hashlib.sha256(f"{facts} {sys.version}".encode()).hexdigest()[:16]
    site = Path(tempfile.gettempdir()) / f"mathgrpo-gpu-kit-{os.getuid()}-{mark}"
    if site.is_dir():
        return site
    part = Path(tempfile.mkdtemp(prefix=f"{site.name}-"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index",
               "--no-deps", "--no-compile", "--target", str(part), *map(str, wheels)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        shutil.rmtree(part, ignore_errors=True)
        words = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()] or ["pip failed"]
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise UserError(
            f"{carried}/wheels cannot be installed in Python {version} ({words[0][:200]}); pack for this Python: "
            f"benchmarks/gpu/pack.sh --python {version}"
        )
    part.chmod(0o755)
    try:
        part.rename(site)
    except OSError:  # another run was faster
        shutil.rmtree(part, ignore_errors=True)
    return site


def carried_revision(carried: Path | None) -> str:
    """Return the revision the folder was packed at, "" when it does not say: a copied tree has no git."""
    path = (carried or Path("nowhere")) / "revision"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _remedy(missing: list[str]) -> str:
    with_network = "with network: make bench-gpu, which installs all"
    if set(missing) <= set(PACKED):
        return f"{with_network}; without: run benchmarks/gpu/pack.sh where there is one, and bring .gpu-kit along"
    return f"{with_network}; without: use a Python that has torch and transformers, which are too large to carry"


def _holds(site: Path | None, name: str) -> bool:
    return site is not None and ((site / name).is_dir() or (site / f"{name}.py").is_file())
