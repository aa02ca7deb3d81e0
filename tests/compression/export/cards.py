"""Cards of artifacts of which nothing was measured."""

from typing import Any

from compression.export.model_card import ModelCard
from compression.schema.report.before import Figures
from compression.schema.report.measurements import NotMeasured, Size

NOTHING = NotMeasured(not_measured="It is not asked.")
UNMEASURED = Figures(
    size=Size(bytes=1, dtype="int8", bytes_at_16_bit=1), latency=NOTHING, score=NOTHING, peak_memory_bytes=NOTHING
)


def card_of(**changes: Any) -> ModelCard:
    """The card of a classifier in int8, or with such changes."""
    about: dict[str, Any] = {
        "name": "tiny",
        "kind": "onnx",
        "stage": "quantized",
        "scheme": "dynamic-int8",
        "task": "text-classification",
        "labels": ("a", "b"),
        "max_length": 16,
        "figures": UNMEASURED,
        "inputs": ("input_ids", "attention_mask"),
    }
    return ModelCard(**about | changes)
