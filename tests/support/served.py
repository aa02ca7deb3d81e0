"""Artifacts of tiny models, as folders that `lathe serve` opens."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import BertForQuestionAnswering, BertForSequenceClassification, PreTrainedModel

from compression.export.exporter import exporter_of
from compression.export.manifest import write_config
from compression.modalities.registry import modality_of
from tests.support.tiny_bert import tiny_config

LENGTH = 16
KIND = "openvino-f16"  #: which is written in a tenth of the time of an ONNX file
HEADS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "text-pair-classification": (BertForSequenceClassification, ("no", "yes")),
    "question-answering": (BertForQuestionAnswering, ()),
}
"""Task → the class of its models, and labels."""


def tiny_model(task: str) -> tuple[PreTrainedModel, tuple[str, ...]]:
    head, labels = HEADS[task]
    torch.manual_seed(3)
    return head(tiny_config(num_labels=2)).eval(), labels


def artifact(task: Any, tokenizer: Path, folder: Path) -> Path:
    """Write an OpenVINO artifact of a random model, without card, recipe and manifest. tokenizer: the folder that has one."""
    model, labels = tiny_model(task)
    folder.mkdir()
    modality_of(task).write_preprocessor(tokenizer, folder, LENGTH, task, model)
    exporter_of(KIND).write(model, folder, "float16")
    write_config(model, folder, labels, LENGTH, KIND)
    (folder / "before.json").write_text(json.dumps({"task": task, "artifact": f"baseline-{KIND}"}))
    return folder
