"""Describes how an artifact stores its weights, and writes its config.json."""

import json
from pathlib import Path
from typing import Literal

from torch import nn

from compression.evaluation.runtimes.runner import Kind
from compression.export.manifest import as_json
from compression.export.onnx.exporter import is_language_model
from compression.quantization.fake_quantize import left_in_float

Precision = Literal["float32", "bfloat16", "float16", "float64", "int8", "int4", "mixed"]
INTEGERS = ("int8", "int4", "mixed")
WEIGHTS = ("*.onnx", "*.onnx_data", "*.safetensors")


def stored_as(model: nn.Module, kind: Kind, precision: Precision) -> str:
    """Return the precision of an artifact's weights, and how many parameters stayed in floating point."""
    if precision not in INTEGERS:
        return precision
    stored = "int8" if kind == "transformers" else precision  # see `export.transformers.exporter`
    left = left_in_float(model, torchao=kind == "transformers")
    return f"{stored}, {left:,} parameters float32" if left else stored


def write_config(model: nn.Module, folder: Path, labels: tuple[str, ...], max_length: int, kind: Kind) -> int:
    """Write the labels to config.json, and for ONNX max_length.

    transformers keeps max_length in tokenizer_config.json instead.
    A language model gets no max_length: stock code would read it as the longest text to generate.

    Returns the id of the padding token.
    """
    path = folder / "config.json"
    if kind == "onnx":
        config = model.config.to_diff_dict()  # type: ignore[union-attr, operator]
        if not is_language_model(model):
            config |= {"max_length": max_length}
        else:
            # A checkpoint's generation config is written together with its weights.
            model.generation_config.save_pretrained(folder)  # type: ignore[union-attr, operator]
            config |= {
                name: getattr(model.config, name) for name in ("bos_token_id", "eos_token_id")
            }  # a stock config leaves out its family's default ids
    else:
        config = json.loads(path.read_text("utf-8"))
    if labels:
        config["id2label"] = {str(number): label for number, label in enumerate(labels)}
        config["label2id"] = {label: number for number, label in enumerate(labels)}
    config["architectures"] = [type(model).__name__]
    for name in ("attn_implementation", "_attn_implementation"):
        config.pop(name, None)  # the uploader's attention kernel, which other machines may lack
    # Always written, because a stock config leaves out its family's default. A language model without padding keeps none:
    # token 0 is text, and stock code would no longer train it, nor accept it as a text's last token.
    padding = int(getattr(model.config, "pad_token_id", None) or 0)
    config["pad_token_id"] = model.config.pad_token_id if is_language_model(model) else padding  # type: ignore[union-attr]
    config.pop("_name_or_path", None)
    path.write_text(as_json(config), "utf-8")
    return padding
