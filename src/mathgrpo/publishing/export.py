"""From a run to files that transformers, PEFT and others load: merged, checked against the original, written whole."""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from mathgrpo.config.recipe import ModelSection
from mathgrpo.errors import UserError, first_line
from mathgrpo.evaluation.records import counted_by
from mathgrpo.formats import format_of
from mathgrpo.models import load_policy
from mathgrpo.models.lora import learning_failure, merged
from mathgrpo.publishing import export_check, export_files
from mathgrpo.publishing.card import public_recipe
from mathgrpo.publishing.export_check import Difference
from mathgrpo.publishing.source import Source, find_source
from mathgrpo.runs.run_folder import versions
from mathgrpo.text import number

Kind = Literal["merged", "adapter", "zip", "gguf"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUICK_CHECK = 25
"""Held-out problems solved again by default."""


@dataclass(frozen=True, slots=True)
class Export:
    """What was exported, and what its checks found.

    Attributes:
        folder: where it is.
        record: the content of export.json.
    """

    folder: Path
    record: dict[str, Any]

    @property
    def lines(self) -> list[str]:
        """The record for a reader, one line a subject."""
        record, checks = self.record, self.record["checks"]
        size, files = sum(file["bytes"] for file in record["files"].values()), len(record["files"])
        scores, accuracy = checks["logprobs"], checks["accuracy"]
        solved = f"held-out problems: {accuracy}" if isinstance(accuracy, str) else (
            f"{accuracy['problems']} held-out problems: {100 * accuracy['after']:.1f} % solved"
            f"{counted_by(accuracy['correct'])}, by the run's own "
            f"evaluation {100 * accuracy['before']:.1f} %"
        )  # fmt: skip
        tensors = checks.get("gguf_tensors")
        packed = [f"            GGUF file with {tensors} tensors; its numbers were not scored again"] if tensors else []
        return [
            f"exported    {self.folder}: {record['kind']}, {record['dtype']}, {files} file{'s' if files > 1 else ''}, "
            f"{size / 1e6:,.1f} MB",
            f"checked     {checks['tensors_equal']} tensors on disk bit for bit as in memory; log-probabilities of "
            f"{scores['tokens']} tokens differ by {number(scores['mean'], 2)} nats on average, "
            f"{number(scores['largest'], 2)} at most",
            f"            {solved}",
            *packed,
            *(f"note        {note}" for note in record["notes"]),
        ]


def export_run(
    model: str, folder: Path | None = None, *, kind: Kind = "merged", dtype: str = "auto", check: int = QUICK_CHECK,
    converter: Path | None = None, device: str = "auto", say: Callable[[str], None] = lambda line: None,
) -> Export:  # fmt: skip
    """Export a run's model and return where it is, after it has been scored again.

    An adapter is merged into its base in full precision, never into a quantised one: a run in 4 bits exports the
    full-precision base with its adapter. Weights are compared on disk bit for bit, then log-probabilities of the same
    texts, then `check` held-out problems (0: none) with the run's own answers.

    folder: default RUN/export/KIND, for a model without a run exports/NAME/KIND. dtype: of the written weights; "auto"
    is what the run computed in.
    Raises: UserError for whatever is wrong; then nothing is written.
    """
    source = find_source(model)
    if kind == "adapter" and source.base is None:
        raise UserError(f"--format adapter: {model} has no adapter, all its weights were trained; use --format merged")
    llama_cpp = export_files.require_converter(converter, model) if kind == "gguf" else None
    wanted = torch.float32 if kind == "adapter" else _dtype(dtype, source)
    target = folder or (source.run / "export" if source.run else Path("exports") / source.name) / kind
    with export_files.export_folder(target) as temporary:
        if kind in ("merged", "adapter"):
            return Export(target, _write_model(source, temporary, kind, wanted, check, device, say))
        with tempfile.TemporaryDirectory(dir=temporary.parent, prefix=".merged-") as scratch:
            record = _write_model(source, Path(scratch), "merged", wanted, check, device, say) | {"kind": kind}
            packed = temporary / f"{source.name}.{kind}"
            if llama_cpp is not None:
                say("converting to GGUF")
                record["checks"]["gguf_tensors"] = export_files.convert(llama_cpp, Path(scratch), packed, wanted)
            else:
                export_files.write_zip(Path(scratch), packed, source.name)
        export_files.write_record(temporary, record)
        return Export(target, record)


def _write_model(
    source: Source, folder: Path, kind: str, dtype: torch.dtype, check: int, device: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Write a model or adapter with its tokenizer and export.json to a folder, checked; return export.json.

    Raises: UserError when the files, loaded as anybody would load them, do not say what the trained model says.
    """
    from safetensors.torch import load_file

    fmt = format_of(source.recipe.format)
    say("loading the trained model")
    policy = load_policy(ModelSection(path=source.location, dtype="float32"), device, train=False)
    for name in ("name_or_path", "_name_or_path"):  # a tokenizer hands on where on somebody's machine it once lay
        policy.tokenizer.init_kwargs.pop(name, None)
    failure = learning_failure(policy.model)
    probes = export_check.make_probes(policy.tokenizer, fmt, source.evaluation)
    original = export_check.score(policy.model, probes)
    from_4bit = _distance_from_4bit(source, probes, original, device)
    say("writing")
    if kind == "adapter":
        for name in export_files.ADAPTER_FILES:
            shutil.copyfile(Path(source.location) / name, folder / name)
        policy.tokenizer.save_pretrained(folder)
        tensors = export_files.fingerprints(load_file(Path(source.location) / export_files.ADAPTER_FILES[0]))
    else:
        tensors = save_merged(merge(policy.model), policy.tokenizer, folder, dtype)
    del policy
    say("scoring it again")
    intact = export_files.require_intact(folder, tensors)
    exported = load_policy(ModelSection(path=str(folder), dtype="float32"), device, train=False)
    apart = export_check.require_same_scores(original, export_check.score(exported.model, probes), dtype)
    accuracy: Any = "not solved again, as asked for"
    if check and source.evaluation is None:
        accuracy = "not solved again: the run has no evaluation of these weights to compare with"
    elif check and source.evaluation is not None:
        accuracy = export_check.require_same_accuracy(exported, source.evaluation, fmt, check, source).as_dict()
    checks = {"tensors_equal": intact, "logprobs": asdict(apart), "accuracy": accuracy}
    notes = [failure] if failure else []
    if from_4bit is not None:
        notes.append(
            "trained over 4-bit weights, exported over the full-precision ones: log-probabilities of the same tokens "
            f"are {number(from_4bit.mean, 2)} nats apart on average"
        )
    record = {
        "name": source.name, "kind": kind, "dtype": str(dtype).removeprefix("torch."), "step": source.step,
        "format": fmt.name, "chat_template_kwargs": fmt.chat_template_kwargs,
        "max_new_tokens": source.recipe.rollout.max_new_tokens, **_judging(source),
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions(),
        "checks": checks | {"distance_from_4bit": from_4bit and asdict(from_4bit)},
        "notes": notes,
    }  # fmt: skip
    export_files.write_record(folder, record)
    return record


def _judging(source: Source) -> dict[str, Any]:
    """Return what `mathgrpo eval` of the export judges by, without local paths; {} for a model without such a run."""
    if source.run is None or source.supervised is not None:
        return {}
    recipe = tomllib.loads(public_recipe(source.recipe))
    kept = {name: recipe[name] for name in ("rewards", "reward_settings") if recipe.get(name)}
    return kept | {"evaluation": {"correct": recipe["evaluation"]["correct"]}}


def merge(model: Any) -> Any:
    """Return the plain transformers model with its adapter, if it has one, added to the float32 weights.

    Raises: UserError when the sum is not finite.
    """
    if not hasattr(model, "merge_and_unload"):
        return model
    try:
        return merged(model, safe=True)
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
    return export_files.fingerprints(model.state_dict())


def _distance_from_4bit(
    source: Source, probes: list[export_check.Probe], original: torch.Tensor, device: str
) -> Difference | None:
    """Return how far the full-precision model is from the 4-bit one that was trained; None where nothing was in 4 bits.

    Raises: UserError without bitsandbytes.
    """
    section = source.recipe.model
    if section.quantization == "none" or source.base is None:
        return None
    trained = section.model_copy(update={"path": source.location, "dtype": "float32", "lora": None})
    return export_check.difference(
        original, export_check.score(load_policy(trained, device, train=False).model, probes)
    )


def _dtype(dtype: str, source: Source) -> torch.dtype:
    """Return the precision of the exported weights; "auto": what the run computed in, float32 without a run."""
    dtype = source.recipe.model.dtype if dtype == "auto" else dtype
    if dtype == "auto":
        dtype = "bfloat16" if str(source.info.get("device", "")).startswith("cuda") else "float32"
    return DTYPES[dtype]
