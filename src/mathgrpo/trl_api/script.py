"""The command line of TRL's example scripts: their argument groups, and a parser that reads a YAML file first."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import BitsAndBytesConfig, HfArgumentParser

from mathgrpo.errors import UserError


@dataclass
class ScriptArguments:
    """Which data set a script trains on. Names and defaults are those of TRL 1.16."""

    dataset_name: str | None = None
    dataset_config: str | None = None
    dataset_train_split: str = "train"
    dataset_test_split: str = "test"
    dataset_streaming: bool = False
    ignore_bias_buffers: bool = False


@dataclass
class ModelConfig:
    """Which model a script trains, with what adapter and quantisation. Names and defaults are those of TRL 1.16.

    Raises: UserError for 4 and 8 bits at once.
    """

    model_name_or_path: str | None = None
    model_revision: str = "main"
    dtype: str | None = "float32"
    attn_implementation: str | None = None
    use_peft: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    lora_target_modules: list[str] | None = None
    lora_target_parameters: list[str] | None = None
    lora_modules_to_save: list[str] | None = None
    lora_task_type: str = "CAUSAL_LM"
    use_rslora: bool = False
    use_dora: bool = False
    load_in_8bit: bool = False
    load_in_4bit: bool = False
    bnb_4bit_quant_type: str = "nf4"
    use_bnb_nested_quant: bool = False
    bnb_4bit_quant_storage: str | None = None

    def __post_init__(self) -> None:
        if self.load_in_4bit and self.load_in_8bit:
            raise UserError("load_in_4bit=True, load_in_8bit=True: a model is loaded in one of them; choose one")
        if isinstance(self.lora_target_modules, list) and len(self.lora_target_modules) == 1:
            self.lora_target_modules = self.lora_target_modules[0]  # type: ignore[assignment]  # "all-linear"


class TrlParser(HfArgumentParser):  # type: ignore[misc]
    """transformers' parser of dataclasses, with `--config FILE.yaml` read before the command line.

    The file maps names to values; "env" in it maps environment variables to theirs.
    """

    def parse_args_and_config(
        self, args: Sequence[str] | None = None, return_remaining_strings: bool = False,
        fail_with_unknown_args: bool = True,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Return one instance of each dataclass.

        return_remaining_strings: what nothing takes comes last, as a list, and is no error.
        Raises: UserError for a file that cannot be read or names what nothing takes.
        """
        given = list(sys.argv[1:] if args is None else args)
        unknown: list[str] = []
        if "--config" in given:
            place = given.index("--config")
            if place + 1 == len(given):
                raise UserError("--config: name a YAML file after it")
            unknown = self._take_defaults(_read_yaml(given[place + 1]))
            del given[place : place + 2]
        parsed = self.parse_args_into_dataclasses(args=given, return_remaining_strings=return_remaining_strings)
        if return_remaining_strings:
            return (*parsed[:-1], unknown + parsed[-1])
        if unknown and fail_with_unknown_args:
            raise UserError(f"--config: {unknown[0][2:]} is no argument of this script; take it out of the file")
        return tuple(parsed)

    def _take_defaults(self, values: dict[str, Any]) -> list[str]:
        """Make values the defaults of the arguments of their names; return the others as strings of a command line."""
        actions = {action.dest: action for action in self._actions}
        for name, value in values.items():
            if name in actions:
                actions[name].default, actions[name].required = value, False
        return [text for name, value in values.items() if name not in actions for text in (f"--{name}", str(value))]


def get_peft_config(model_args: ModelConfig) -> Any:
    """Return the peft.LoraConfig of a ModelConfig; None without use_peft."""
    if not model_args.use_peft:
        return None
    from peft import LoraConfig

    options: dict[str, Any] = {}
    if model_args.lora_target_parameters:
        options = {"target_parameters": model_args.lora_target_parameters}
    return LoraConfig(
        task_type=model_args.lora_task_type, r=model_args.lora_r, lora_alpha=model_args.lora_alpha,
        lora_dropout=model_args.lora_dropout, target_modules=model_args.lora_target_modules, bias="none",
        use_rslora=model_args.use_rslora, use_dora=model_args.use_dora,
        modules_to_save=model_args.lora_modules_to_save, **options,
    )  # fmt: skip


def get_quantization_config(model_args: ModelConfig) -> Any:
    """Return the transformers.BitsAndBytesConfig of a ModelConfig; None without load_in_4bit and load_in_8bit."""
    if not model_args.load_in_4bit and not model_args.load_in_8bit:
        return None
    if model_args.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=model_args.dtype, bnb_4bit_quant_type=model_args.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=model_args.use_bnb_nested_quant,
        bnb_4bit_quant_storage=model_args.bnb_4bit_quant_storage,
    )  # fmt: skip


def get_kbit_device_map() -> None:
    """Return None: a quantised model goes to the one device of the run by itself."""


def _read_yaml(path: str) -> dict[str, Any]:
    """Return the settings of a YAML file, its environment variables set."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"--config {path}: cannot be read ({str(error).partition(chr(10))[0]})") from error
    if not isinstance(values, dict) or not isinstance(values.get("env", {}), dict):
        raise UserError(f"--config {path}: must map names to values, and env variables to theirs")
    os.environ.update({name: str(value) for name, value in values.pop("env", {}).items()})
    return values
