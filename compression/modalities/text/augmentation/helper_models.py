"""Opens a helper model: a folder of stock files, safetensors only, no custom code, no network."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from compression.schema.errors import ConfigMismatch, DamagedCheckpoint, MissingFile, UnsafeCheckpoint
from compression.system.failures import typed


def open_helper(
    kind: Any, folder: Path, param: str, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[str]]:
    """Open a folder with one of transformers' Auto classes -> model on `device`, tokenizer, names of weights that it lacks.

    Raises MissingFile, UnsafeCheckpoint, DamagedCheckpoint and ConfigMismatch.
    """
    _safe(folder, param)
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        wanted = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
        model, report = kind.from_pretrained(folder, **wanted, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except SafetensorError as problem:
        cause = f"the weights of {folder.name} cannot be read: {problem}"
        raise typed(problem) or DamagedCheckpoint(cause, param=param) from problem
    except Exception as problem:  # transformers, torch and tokenizers raise errors of any class
        cause = f"{folder.name} cannot be opened: {problem}"[:2000]
        remedy = "Send a model whose files belong together."
        raise typed(problem) or ConfigMismatch(cause, param=param, remedy=remedy) from problem
    return model.to(device).eval().requires_grad_(False), tokenizer, sorted(report["missing_keys"])


def _safe(folder: Path, param: str) -> None:
    if not (folder / "config.json").is_file():
        raise MissingFile(f"{folder.name} has no config.json", param=param)
    if not any(folder.glob("*.safetensors")):
        raise UnsafeCheckpoint(f"{folder.name} has no *.safetensors; nothing else is opened", param=param)
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        try:
            settings = json.loads((folder / name).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as problem:
            raise ConfigMismatch(f"{name} is not JSON: {problem}", param=param) from problem
        if not isinstance(settings, dict):
            raise ConfigMismatch(f"{name} is not a JSON object", param=param)
        if "auto_map" in settings:
            raise UnsafeCheckpoint(f"{name} of {folder.name} names code to run (auto_map)", param=param)
