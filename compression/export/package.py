"""Ship: export the engine's model, reopen the files, verify them, and measure what will be downloaded."""

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
    """Say what an artifact's weights are stored in, and how many of them stayed in floating point."""
    if precision not in INTEGERS:
        return precision
    stored = "int8" if kind == "transformers" else precision  # see `transformers`
    left = left_in_float(model, torchao=kind == "transformers")
    return f"{stored}, {left:,} parameters float32" if left else stored


def write_config(model: nn.Module, folder: Path, labels: tuple[str, ...], max_length: int, kind: Kind) -> int:
    """Give config.json the labels (and for ONNX the length, which transformers keeps in tokenizer_config.json).

    Not a language model's length: there stock code takes it for how long a generated text may become.

    Returns the id of the padding token.
    """
    path = folder / "config.json"
    if kind == "onnx":
        config = model.config.to_diff_dict()  # type: ignore[union-attr, operator]
        if not is_language_model(model):
            config |= {"max_length": max_length}
        else:
            # A checkpoint's are written with it.
            model.generation_config.save_pretrained(folder)  # type: ignore[union-attr, operator]
            config |= {
                name: getattr(model.config, name) for name in ("bos_token_id", "eos_token_id")
            }  # stock ones are left out
    else:
        config = json.loads(path.read_text("utf-8"))
    if labels:
        config["id2label"] = {str(number): label for number, label in enumerate(labels)}
        config["label2id"] = {label: number for number, label in enumerate(labels)}
    config["architectures"] = [type(model).__name__]
    for name in ("attn_implementation", "_attn_implementation"):
        config.pop(name, None)  # of the machine that wrote what was sent: others may not have it
    # Named whatever it is: a stock config leaves out what is its family's default. A language model that has no padding keeps
    # none: token 0 is text, and stock code would not train it any more, nor take it for a text's last token.
    padding = int(getattr(model.config, "pad_token_id", None) or 0)
    config["pad_token_id"] = model.config.pad_token_id if is_language_model(model) else padding  # type: ignore[union-attr]
    config.pop("_name_or_path", None)
    path.write_text(as_json(config), "utf-8")
    return padding
