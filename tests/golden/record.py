"""Records golden runs, and compares the present code with them.

python tests/golden/record.py                      record every case anew, from the working tree
python tests/golden/record.py --revision REV       the same from a revision
python tests/golden/record.py --only CASE --out F  one case, into another file
python tests/golden/record.py --check [--only C]   run and compare; exit status 1 on a difference

A case is a command line, or a script, that a user could have written. It sets nothing but what is meant to last, and
what it leaves in its folder is read by the names that are documented. It runs in one thread, in processes of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
Golden = dict[str, Any]

NOT_COMPARED = (
    "time/", "step_time", "tokens_per_s", "rows_per_decode_step", "mfu", "roofline", "memory", "speed", "train_runtime",
    "train_samples_per_second", "train_steps_per_second", "total_flos",
)  # fmt: skip
"""Metrics whose names start so are times, speeds or memory."""
COMPLETION = ("text", "tokens", "finish_reason", "verdict", "reward", "reward_parts", "advantage", "logprob_mean")
LOGGED = 4
"""Groups of a step that are looked at: as many as a run writes down by itself."""
GROUP = ("problem_id", "question", "gold", "prompt_tokens")
NO_WEIGHTS = ("optimizer", "rng_state")
SHORT = ("training.steps=10", "problems.heldout_size=16", "evaluation.samples=0", "rollout.prompts_per_step=4",
         "rollout.max_new_tokens=48")  # fmt: skip


def alone(source: Path, folder: Path, *settings: str) -> Golden:
    """Return a run of the demo recipe in one process."""
    start([sys.executable, "-m", "mathgrpo", *train_arguments(folder, settings)], source)
    return read_run(folder / "run")


def two_processes(source: Path, folder: Path, *settings: str) -> Golden:
    """Return the same of two processes. How they are started is said here only."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    start([*launcher, "-m", "mathgrpo", *train_arguments(folder, settings)], source)
    return read_run(folder / "run")


def script(source: Path, folder: Path) -> Golden:
    """Return a run of script.py."""
    start([sys.executable, str(HERE / "script.py"), str(folder)], source)
    logs = [log for log in json.loads((folder / "logs.json").read_text()) if "loss" in log]
    calls = json.loads((folder / "calls.json").read_text())[-len(logs) :]  # rewards may be tried before the first step
    steps = [step_of(log, call, call) for log, call in zip(logs, calls, strict=True)]
    return {"steps": steps, "evaluations": {}, "weights": weights_of(folder / "model")}


CASES: dict[str, Callable[[Path, Path], Golden]] = {
    "recipe": lambda source, folder: alone(
        source, folder, "training.steps=20", "problems.heldout_size=32", "evaluation.samples=1",
        "rollout.prompts_per_step=8",
    ),
    "script": script,
    "adapter": lambda source, folder: alone(
        source, folder, *SHORT, "model.lora.r=8", "grpo.beta=0.02", "grpo.updates_per_rollout=2",
        "optimizer.learning_rate=3e-3",
    ),
    "processes": lambda source, folder: two_processes(source, folder, *SHORT),
}  # fmt: skip


def train_arguments(folder: Path, settings: Sequence[str]) -> list[str]:
    """Return the command line of a run of the demo recipe."""
    common = ("model.dtype=float32", "run.seed=0", f"run.output_dir={folder}", "run.name=run")
    return ["train", "demo", *(word for setting in (*settings, *common) for word in ("--set", setting))]


def start(command: Sequence[str], source: Path) -> str:
    """Run a command with the package of a checkout in one thread, and return its output.

    Raises: SystemExit with the output when it fails.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MATHGRPO_CPU", "TRITON_"))}
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "1"}
    network = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    environment = kept | one | quiet | network | {"PYTHONPATH": str(source / "src")}
    done = subprocess.run(command, cwd=source, env=environment, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def read_run(run: Path) -> Golden:
    """Return what a run folder says."""
    rollouts: dict[int, list[dict[str, Any]]] = {}
    for line in lines_of(run / "rollouts.jsonl"):
        rollouts.setdefault(line["step"], []).append(line)
    steps = []
    for metrics in lines_of(run / "metrics.jsonl"):
        groups = [
            {key: group[key] for key in GROUP}
            | {"completions": [{key: row[key] for key in COMPLETION} for row in group["completions"]]}
            for group in rollouts[metrics["step"]][:LOGGED]
        ]
        steps.append(step_of(metrics, groups, [row for group in groups for row in group["completions"]]))
    evaluations = {}
    for path in sorted((run / "eval").glob("*.json")):
        summary = json.loads(path.read_text())
        numbers = {name: value for name, value in summary.items() if name not in ("name", "settings")}
        answers = [
            [line["id"], *([row["text"], row["tokens"], row["verdict"]] for row in (line["greedy"], *line["samples"]))]
            for line in lines_of(path.with_suffix(".jsonl"))
        ]
        evaluations[path.stem] = numbers | {"answers": digest(answers)}
    last = max((run / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    return {"steps": steps, "evaluations": evaluations, "weights": weights_of(last)}


def step_of(metrics: Mapping[str, Any], rollouts: Any, completions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is kept of a step: `texts` is a part of `rollouts`, which another processor should draw too."""
    kept = {name: value for name, value in metrics.items() if not name.startswith(NOT_COMPARED)}
    texts = [row["text"] for row in completions]
    return {"metrics": kept, "rollouts": digest(rollouts), "texts": digest(texts)}


def weights_of(folder: Path) -> dict[str, Any]:
    """Return the hash of all weights in a folder, and the L2 norm of each."""
    from safetensors.torch import load_file

    files = [path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith(NO_WEIGHTS)]
    tensors = {name: tensor for path in files for name, tensor in load_file(path).items()}
    whole, norms = hashlib.sha256(), {}
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.contiguous().numpy().tobytes())
        norms[name] = float(tensor.double().norm())
    return {"sha256": whole.hexdigest(), "norms": norms}


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value; floats count to the last bit."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def machine() -> dict[str, str]:
    """Return what decides on the bits of a run: processor, torch, and the compiler of the decoder."""
    import torch

    fields: dict[str, str] = {}
    if Path("/proc/cpuinfo").is_file():
        pairs = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
        fields = {name.strip(): value.strip() for name, _, value in pairs}
    names = (fields.get(name, "?") for name in ("cpu family", "model", "stepping"))
    processor = f"{fields.get('model name', platform.processor())} (family, model, stepping: {' '.join(names)})"
    compiler = shutil.which(os.environ.get("CC", "cc").split()[0]) or ""
    version = subprocess.run([compiler, "--version"], text=True, capture_output=True).stdout if compiler else "none\n"
    return {"processor": processor, "torch": torch.__version__, "compiler": version.splitlines()[0]}


@contextmanager
def checkout(revision: str | None) -> Iterator[tuple[Path, str]]:
    """Give the folder of a revision, which goes again afterwards, and its name; None: the working tree."""
    if revision is None:
        changed = git("status", "--porcelain", "--", "src", "recipes", "pyproject.toml")
        yield ROOT, git("rev-parse", "HEAD") + (" and changes" if changed else "")
        return
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "tree"
        git("worktree", "add", "--detach", str(folder), revision)
        try:
            yield folder, git("rev-parse", f"{revision}^{{commit}}")
        finally:
            git("worktree", "remove", "--force", str(folder))


def git(*arguments: str) -> str:
    """Return what git answers in this repository."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def run_case(case: str, source: Path, revision: str = "") -> Golden:
    """Return what a case gives with the package in a checkout.

    Raises: SystemExit when the run fails, or the package came from elsewhere.
    """
    found = start([sys.executable, "-c", "import mathgrpo; print(mathgrpo.__file__)"], source).strip()
    if not Path(found).resolve().is_relative_to(source.resolve()):
        raise SystemExit(f"mathgrpo comes from {found}, not from {source}")
    with tempfile.TemporaryDirectory() as folder:
        result = CASES[case](source, Path(folder))
    return {"case": case, "revision": revision, "machine": machine(), **result}


def golden_file(case: str) -> Path:
    """Return where a case's golden run is kept."""
    return HERE / f"{case}.json"


def load_golden(case: str) -> Golden:
    """Return a case's golden run."""
    golden: Golden = json.loads(golden_file(case).read_text(encoding="utf-8"))
    return golden


def exact_differences(golden: Golden, now: Golden) -> list[str]:
    """Return every difference, in the order of the run; metrics may be added, never go."""
    case = golden["case"]
    found = [] if len(golden["steps"]) == len(now["steps"]) else [f"{case}: {len(now['steps'])} steps"]
    before = {name: values for name, values in golden["evaluations"].items() if name.startswith("before")}
    found += _evaluations(case, before, now)
    for i, (was, got) in enumerate(zip(golden["steps"], now["steps"], strict=False)):
        found += _numbers(f"{case}: step {i + 1}", was["metrics"], got["metrics"])
        if was["rollouts"] != got["rollouts"]:
            what = "with the same texts" if was["texts"] == got["texts"] else "in their texts too"
            found.append(f"{case}: step {i + 1}: the rollouts are others, {what}")
    after = {name: values for name, values in golden["evaluations"].items() if name not in before}
    found += _evaluations(case, after, now)
    if golden["weights"]["sha256"] != now["weights"]["sha256"]:
        found.append(f"{case}: the final weights are others")
        found += _numbers(f"{case}: norm of final weights", golden["weights"]["norms"], now["weights"]["norms"])
    return found


def _evaluations(case: str, evaluations: Mapping[str, Any], now: Golden) -> list[str]:
    return [
        line
        for name, values in evaluations.items()
        for line in _numbers(f"{case}: evaluation {name}", values, now["evaluations"].get(name, {}))
    ]


def _numbers(where: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{where}: {name}: golden {value!r}, now {now.get(name, 'missing')!r}"
        for name, value in was.items()
        if name not in now or now[name] != value
    ]


def main() -> int:
    """Record or check, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--revision", help="run this revision; otherwise the working tree")
    parser.add_argument("--only", choices=list(CASES), help="one case")
    parser.add_argument("--out", type=Path, help="write one JSON object, case -> golden run, here instead")
    parser.add_argument("--check", action="store_true", help="compare to the bit with what was recorded")
    options = parser.parse_args()
    results, different = {}, False
    with checkout(options.revision) as (source, revision):
        for case in [options.only] if options.only else CASES:
            started = time.monotonic()
            results[case] = run_case(case, source, revision)
            took = f"{time.monotonic() - started:.1f} s"
            if not options.check:
                print(f"{case}: recorded, {took}", flush=True)
                continue
            golden = load_golden(case)
            lines = exact_differences(golden, results[case])
            print(f"{case}: {f'{len(lines)} differences' if lines else 'equal'}, {took}", flush=True)
            print(*(f"  {line}\n" for line in lines[:20]), sep="", end="", flush=True)
            if lines and golden["machine"] != results[case]["machine"]:
                print(f"  recorded on another machine: {golden['machine']}, this one: {results[case]['machine']}")
            different |= bool(lines)
    if options.out is not None:
        write(options.out, results)
    elif not options.check:
        for case, result in results.items():
            write(golden_file(case), result)
    return int(different)


def write(path: Path, value: Any) -> None:
    """Write JSON for readers of a diff: one number a line."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
