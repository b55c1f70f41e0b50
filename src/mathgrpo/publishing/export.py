"""From a run to files that transformers, PEFT and others load: merged, checked against the original, written whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from mathgrpo.config.recipe import ModelSection
from mathgrpo.errors import UserError, first_line
from mathgrpo.files import to_json, write_atomically
from mathgrpo.formats import Format, get_format
from mathgrpo.models import Policy, load_policy
from mathgrpo.models.lora import learning_failure
from mathgrpo.publishing.export_check import (
    Difference,
    Probe,
    difference,
    make_probes,
    require_same_accuracy,
    require_same_scores,
    score,
)
from mathgrpo.publishing.export_files import (
    ADAPTER_FILES,
    fingerprints,
    forget_places,
    require_free,
    require_intact,
    sizes_and_hashes,
    write_export,
    write_zip,
)
from mathgrpo.publishing.gguf import convert, require_converter
from mathgrpo.publishing.source import Source, find_source
from mathgrpo.runs.run_info import versions

Kind = Literal["merged", "adapter", "zip", "gguf"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
RECORD = "export.json"
QUICK_CHECK = 25
"""Held-out problems solved again by default."""


@dataclass(frozen=True, slots=True)
class Export:
    """What was exported, and what its checks found.

    Attributes:
        folder: where it is.
        record: the content of export.json.
        lines: the same for a reader.
    """

    folder: Path
    record: dict[str, Any]
    lines: tuple[str, ...]


def export_run(
    model: str,
    folder: Path | None = None,
    *,
    kind: Kind = "merged",
    dtype: str = "auto",
    check: int = QUICK_CHECK,
    converter: Path | None = None,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> Export:
    """Export a run's model and return where it is, after it has been scored again.

    An adapter is merged into its base in full precision, never into a quantised one: a run in 4 bits exports the
    full-precision base with its adapter. Weights are compared on disk bit for bit, then log-probabilities of the same
    texts, then `check` held-out problems (0: none) with the run's own answers.

    folder: default RUN/export/KIND, for a model without a run exports/NAME/KIND. dtype: of the written weights; "auto"
    is what the run computed in.
    Raises: UserError for whatever is wrong; then nothing is written.
    """
    source = find_source(model)
    _require_kind(source, kind, model)
    path_to_converter = require_converter(converter, model) if kind == "gguf" else None
    wanted = _dtype(dtype, source)
    target = folder or (source.run / "export" if source.run else Path("exports") / source.name) / kind
    require_free(target)
    fmt = get_format(source.recipe.format.name)
    record: dict[str, Any] = {}

    def write(temporary: Path) -> None:
        if kind in ("merged", "adapter"):
            record.update(_write_model(source, temporary, kind, wanted, fmt, check, device, say))
            return
        with tempfile.TemporaryDirectory(dir=temporary.parent, prefix=".merged-") as scratch:
            merged = Path(scratch)
            record.update(_write_model(source, merged, "merged", wanted, fmt, check, device, say))
            if path_to_converter is not None:
                say("converting to GGUF")
                tensors = convert(path_to_converter, merged, temporary / f"{source.name}.gguf", wanted)
                record["checks"]["gguf_tensors"] = tensors
            else:
                write_zip(merged, temporary / f"{source.name}.zip", source.name)
        record.update(kind=kind, files=sizes_and_hashes(temporary))
        _write_record(temporary, record)

    write_export(target, write)
    return Export(target, record, tuple(export_lines(target, record)))


def export_lines(folder: Path, record: dict[str, Any]) -> list[str]:
    """Return an export for a reader, one line a subject."""
    size = sum(file["bytes"] for file in record["files"].values())
    checks, scores = record["checks"], record["checks"]["logprobs"]
    files = "1 file" if len(record["files"]) == 1 else f"{len(record['files'])} files"
    lines = [
        f"exported    {folder}: {record['kind']}, {record['dtype']}, {files}, {size / 1e6:,.1f} MB",
        f"checked     {checks['tensors_equal']} tensors on disk bit for bit as in memory; log-probabilities of "
        f"{scores['tokens']} tokens differ by {scores['mean']:.2g} nats on average, {scores['largest']:.2g} at most",
    ]
    accuracy = checks["accuracy"]
    if isinstance(accuracy, dict):
        lines.append(
            f"            {accuracy['problems']} held-out problems: {100 * accuracy['after']:.1f} % solved, by the "
            f"run's own evaluation {100 * accuracy['before']:.1f} %"
        )
    else:
        lines.append(f"            held-out problems: {accuracy}")
    if "gguf_tensors" in checks:
        lines.append(f"            GGUF file with {checks['gguf_tensors']} tensors; its numbers were not scored again")
    return lines + [f"note        {note}" for note in record["notes"]]


def _write_model(
    source: Source, folder: Path, kind: str, dtype: torch.dtype, fmt: Format, check: int, device: str,
    say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Write a model or adapter with its tokenizer and export.json to a folder, checked; return export.json."""
    say("loading the trained model")
    policy = load_policy(ModelSection(path=source.location, dtype="float32"), device, train=False)
    failure = learning_failure(policy.model)
    probes = make_probes(policy.tokenizer, fmt, source.evaluation)
    original = score(policy.model, probes)
    from_4bit = _distance_from_4bit(source, probes, original, device)
    say("writing")
    if kind == "adapter":
        dtype = torch.float32
        tensors = _save_adapter(source, policy, folder)
    else:
        tensors = save_merged(merge(policy.model), policy.tokenizer, folder, dtype)
    forget_places(folder)
    del policy
    say("scoring it again")
    checks = {"tensors_equal": require_intact(folder, tensors)}
    checks |= _score_again(source, folder, probes, original, dtype, fmt, check, device)
    record = {
        "name": source.name, "kind": kind, "dtype": str(dtype).removeprefix("torch."), "step": source.step,
        "format": fmt.name, "max_new_tokens": source.recipe.rollout.max_new_tokens,
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions(),
        "checks": checks | {"distance_from_4bit": from_4bit and asdict(from_4bit)},
        "notes": _notes(from_4bit, failure), "files": sizes_and_hashes(folder),
    }  # fmt: skip
    _write_record(folder, record)
    return record


def merge(model: Any) -> Any:
    """Return the plain transformers model with its adapter, if it has one, added to the float32 weights.

    Raises: UserError when the sum is not finite.
    """
    if not hasattr(model, "merge_and_unload"):
        return model
    try:
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(f"export: the adapter cannot be merged ({first_line(error)})") from error


def save_merged(model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype) -> dict[str, str]:
    """Write weights in a precision, configuration, generation defaults, tokenizer and chat template.

    Returns the tensors' fingerprints.
    """
    model = model.to(dtype)
    model.config.dtype = dtype
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return fingerprints(model.state_dict())


def _save_adapter(source: Source, policy: Policy, folder: Path) -> dict[str, str]:
    from safetensors.torch import load_file

    for name in ADAPTER_FILES:
        shutil.copyfile(Path(source.location) / name, folder / name)
    policy.tokenizer.save_pretrained(folder)
    return fingerprints(load_file(Path(source.location) / ADAPTER_FILES[0]))


def _score_again(
    source: Source, folder: Path, probes: list[Probe], original: torch.Tensor, dtype: torch.dtype, fmt: Format,
    check: int, device: str,
) -> dict[str, Any]:  # fmt: skip
    """Return what the exported files say, loaded as anybody would load them.

    Raises: UserError when it is not what the trained model says.
    """
    exported = load_policy(ModelSection(path=str(folder), dtype="float32"), device, train=False)
    apart = require_same_scores(original, score(exported.model, probes), dtype)
    found: dict[str, Any] = {"logprobs": asdict(apart)}
    if not check:
        return found | {"accuracy": "not solved again, as asked for"}
    if source.evaluation is None:
        return found | {"accuracy": "not solved again: the run has no evaluation of these weights to compare with"}
    return found | {"accuracy": require_same_accuracy(exported, source.evaluation, fmt, check).as_dict()}


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    write_atomically(folder / RECORD, to_json(record, indent=1) + "\n")


def _distance_from_4bit(source: Source, probes: list[Probe], original: torch.Tensor, device: str) -> Difference | None:
    """Return how far the full-precision model is from the 4-bit one that was trained; None where nothing was in 4 bits.

    Raises: UserError without bitsandbytes.
    """
    section = source.recipe.model
    if section.quantization == "none" or source.base is None:
        return None
    trained = section.model_copy(update={"path": source.location, "dtype": "float32", "lora": None})
    return difference(original, score(load_policy(trained, device, train=False).model, probes))


def _notes(from_4bit: Difference | None, failure: str) -> list[str]:
    notes = [failure] if failure else []
    if from_4bit is not None:
        notes.append(
            "trained over 4-bit weights, exported over the full-precision ones: log-probabilities of the same tokens "
            f"are {from_4bit.mean:.2g} nats apart on average"
        )
    return notes


def _require_kind(source: Source, kind: str, model: str) -> None:
    if kind == "adapter" and source.base is None:
        raise UserError(f"--format adapter: {model} has no adapter, all its weights were trained; use --format merged")


def _dtype(dtype: str, source: Source) -> torch.dtype:
    """Return the precision of the exported weights; "auto": what the run computed in, float32 without a run."""
    if dtype != "auto":
        return DTYPES[dtype]
    settled = source.recipe.model.dtype
    if settled != "auto":
        return DTYPES[settled]
    return torch.bfloat16 if str(source.info.get("device", "")).startswith("cuda") else torch.float32
