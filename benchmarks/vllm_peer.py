"""vLLM as a rollout peer, run by the Python of its own environment: this file needs nothing but vLLM.

    PYTHON vllm_peer.py SETTINGS FOLDER OPTIONS

It samples from fixed weights: what a trainer would pay on top to hand it new ones is not counted, and it keeps no
log-probabilities, which this project's rollouts do.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve the orchestrator: one rollout for each step command."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    settings, folder, options = json.loads(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    try:
        _serve(replies, settings, folder, options)
    except Exception as error:
        lines = str(error).splitlines()
        replies.write(json.dumps({"error": f"{type(error).__name__}: {lines[0] if lines else ''}"}) + "\n")
        raise


def _serve(replies: Any, settings: dict[str, Any], folder: Path, options: dict[str, Any]) -> None:
    started = time.perf_counter()
    engine, sampling = _engine(settings, options)
    prompts = json.loads((folder / "prompts.json").read_text())
    ready = {"ready": True, "imported_bytes": 0, "prepare_s": time.perf_counter() - started, "note": ""}
    replies.write(json.dumps(ready) + "\n")
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "stop":
            return
        replies.write(json.dumps(_step(engine, sampling, settings, prompts, command["step"])) + "\n")


def _engine(settings: dict[str, Any], options: dict[str, Any]) -> tuple[Any, Any]:
    """Return the engine, and how it samples: at the plain softmax, no end token in forced mode."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=options["model"], dtype=settings["dtype"], seed=settings["seed"], enable_prefix_caching=True,
        max_num_seqs=settings["prompts_per_step"] * settings["group_size"], max_model_len=options["max_model_len"],
    )  # fmt: skip
    sampling = SamplingParams(
        n=settings["group_size"], temperature=1.0, top_p=1.0, top_k=0, max_tokens=settings["max_new_tokens"],
        ignore_eos=settings["mode"] == "forced",
    )  # fmt: skip
    return engine, sampling


def _step(engine: Any, sampling: Any, settings: dict[str, Any], prompts: list[list[int]], index: int) -> dict[str, Any]:
    size = settings["prompts_per_step"]
    ids = prompts[index * size : (index + 1) * size]
    started = time.perf_counter()
    outputs = engine.generate([{"prompt_token_ids": row} for row in ids], sampling, use_tqdm=False)
    seconds = time.perf_counter() - started
    lengths = [len(completion.token_ids) for output in outputs for completion in output.outputs]
    return {
        "step": index, "seconds": seconds, "rollout_s": seconds, "reward_s": 0.0, "tokens": sum(lengths),
        "longest": max(lengths), "prompt_tokens": sum(map(len, ids)), "peak_bytes": _process_tree_peak(),
        "resident_bytes": 0, "logprob_difference": None,
    }  # fmt: skip


def _process_tree_peak() -> int:
    """Return the sum of VmHWM of this process and those it started: vLLM's engine runs in one of its own."""
    parents, peaks = {}, {}
    for entry in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in entry.read_text().splitlines() if ":" in line)
        except (OSError, ValueError):
            continue
        pid = int(entry.parent.name)
        parents[pid] = int(fields["PPid"])
        peaks[pid] = int(fields.get("VmHWM", "0").split()[0]) * 1024
    family = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(peaks.get(pid, 0) for pid in family)


if __name__ == "__main__":
    main()
