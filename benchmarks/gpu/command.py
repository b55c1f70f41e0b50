"""The command line of the kit.

python -m benchmarks.gpu [--only STAGE...] [--out DIR] [--minutes 9] [--carried DIR] [--rehearse]
"""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.arguments import Parser
from benchmarks.gpu.carried import FOLDER, carried_revision, environment
from benchmarks.gpu.driver import Driver
from benchmarks.gpu.page import write_page
from benchmarks.gpu.plan import STAGES, Stage, named
from benchmarks.gpu.record import Record
from benchmarks.machine import ask_nvidia_smi, revision
from mathgrpo.errors import UserError

OUT, REHEARSED = Path("benchmarks/results/gpu"), Path("gpu-results")
RESERVE_S = 8.0
"""Of the minutes, what installing nothing and writing the page may take."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the kit; return the exit code: 0 when every stage was run, 1 when a case went wrong, 2 for bad arguments."""
    try:
        return run_kit(parse(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # the disk may fill up at any time
        print(
            f"error: {error.filename or 'results'}: {error.strerror}; what was measured before is kept", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        print("stopped; what was measured is kept", file=sys.stderr)
        return 130


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked arguments.

    Raises: UserError for whatever is wrong with them.
    """
    names = ", ".join(stage.name for stage in STAGES if not stage.hidden)
    parser = Parser(prog="python -m benchmarks.gpu", epilog=f"stages, in order: {names}",
                     description="Say whether this project works on a GPU, how fast, and what to mend.")  # fmt: skip
    parser.add_argument("--only", nargs="+", default=[], metavar="STAGE", help="run these stages alone, again or first")
    parser.add_argument("--out", type=Path, default=None,
                        help=f"folder of the results (default: {OUT}; of a rehearsal: {REHEARSED})")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=9.0, help="how long to run at most")
    parser.add_argument("--carried", type=Path, default=None, help="the folder pack.sh made (default: .gpu-kit)")
    parser.add_argument("--rehearse", action="store_true", help="run all of it on a CPU, at a size that means nothing")
    given = parser.parse_args(arguments)
    unknown = named(given.only)[1]
    if unknown:
        raise UserError(f"--only={unknown[0]}: no such stage; there are: {names}")
    if not (math.isfinite(given.minutes) and given.minutes > 0):
        raise UserError(f"--minutes={given.minutes}: must be a number above 0; nine are what the whole kit is made for")
    if given.carried is not None and not given.carried.is_dir():
        raise UserError(f"--carried={given.carried}: no such folder; benchmarks/gpu/pack.sh makes one")
    given.out = given.out or (REHEARSED if given.rehearse else OUT)
    if given.out.exists() and not given.out.is_dir():
        raise UserError(f"--out={given.out}: is a file; name a folder")
    given.carried = given.carried or (FOLDER if FOLDER.is_dir() else None)
    return given


def run_kit(given: argparse.Namespace) -> int:
    """Run the stages asked for, and write the page after each."""
    started = time.monotonic()
    device = "cpu" if given.rehearse else require_cuda()
    env = environment(given.carried)
    if device == "cuda":
        require_torch_cuda(env)
    require_writable(given.out)
    results, log = given.out / "results.jsonl", given.out / "log.txt"
    scratch = Path(tempfile.mkdtemp(prefix="mathgrpo-gpu-"))
    record = Record(results, datetime.now().astimezone().isoformat(timespec="seconds"))
    stages, page = named(given.only)[0], given.out / "results.md"
    record.add(
        revision=known_revision(given.carried), card="none, a rehearsal" if given.rehearse else card_name(),
        minutes=given.minutes, only=given.only, carried=given.carried is not None,
    )  # fmt: skip
    setup: dict[str, Any] = {
        "device": device, "rehearse": given.rehearse, "scratch": str(scratch), "log": str(log.resolve()),
        "carried": str(given.carried.resolve()) if given.carried else "",
    }  # fmt: skip
    driver = Driver(record, setup, env, log, started + 60 * given.minutes - RESERVE_S, _say)
    try:
        _run_stages(driver, stages, page)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        bad = write_page(results, page)
    _say(f"wrote {results}, {page} and {log} in {time.monotonic() - started:.0f} s")
    return 1 if bad else 0


def _run_stages(driver: Driver, stages: Sequence[Stage], page: Path) -> None:
    """Run stages in order; a run told to end by the system stops as with Ctrl-C, with nothing left running."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        for stage in stages:
            driver.run(stage)
            write_page(driver.record.path, page)
    finally:
        signal.signal(signal.SIGTERM, before)


def require_cuda() -> str:
    """Return "cuda".

    Raises: UserError where there is no CUDA device; the driver itself needs no torch.
    """
    if shutil.which("nvidia-smi") is None and not Path("/dev/nvidia0").exists() and not Path("/dev/dxg").exists():
        raise UserError(
            "this machine has no CUDA device; --rehearse runs all of the kit on a CPU, to see that it would"
        )
    return "cuda"


def require_torch_cuda(env: Mapping[str, str]) -> None:
    """Return when torch sees the card; asked in a process of its own, which also brings torch into the file cache.

    Raises: UserError otherwise: each case would fail for this one reason.
    """
    code = "import torch; print(torch.__version__, torch.cuda.is_available())"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    version, _, sees = done.stdout.strip().rpartition(" ")
    if done.returncode:
        raise UserError(f"torch cannot be imported here ({done.stderr.strip().splitlines()[-1][:200]}); mend it first")
    if sees != "True":
        raise UserError(
            f"torch {version} sees no CUDA device, though the machine has one; install a CUDA build of torch that fits "
            "the driver, as https://pytorch.org says"
        )


def require_writable(folder: Path) -> None:
    """Make the folder of the results, unless it is there.

    Raises: UserError when nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "results.jsonl").open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise UserError(f"--out={folder}: cannot be written ({error.strerror}); name another folder") from None


def card_name() -> str:
    """Return what nvidia-smi calls the first card."""
    return ask_nvidia_smi("name") or "a card that nvidia-smi does not name"


def known_revision(carried: Path | None) -> str:
    """Return the commit of this checkout, or the one that was packed where there is no git."""
    found = revision()
    return found if found != "unknown" else carried_revision(carried) or "unknown"


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, flush=True)
