"""Cards of artifacts of which nothing was measured."""

from typing import Any

from compression.export.model_card import ModelCard
from compression.schema.report.before import Figures
from compression.schema.report.measurements import NotMeasured, Size
from compression.schema.report.report import Artifact

NOTHING = NotMeasured(not_measured="It is not asked.")
UNMEASURED = Figures(
    size=Size(bytes=1, dtype="int8", bytes_at_16_bit=1), latency=NOTHING, score=NOTHING, peak_memory_bytes=NOTHING
)
ARTIFACT = Artifact(
    name="tiny", kind="onnx", stage="quantized", precision="int8", files=(), score=NOTHING, opens_with="onnxruntime"
)


def card_of(**changes: Any) -> ModelCard:
    """The card of a classifier in int8, or with such changes of it or of its artifact."""
    of_artifact = {key: changes.pop(key) for key in ("name", "kind", "stage", "compared_on", "operators") if key in changes}
    about = {"artifact": ARTIFACT.model_copy(update=of_artifact), "figures": UNMEASURED, "scheme": "dynamic-int8"}
    asked = {"task": "text-classification", "labels": ("a", "b"), "max_length": 16, "inputs": ("input_ids", "attention_mask")}
    return ModelCard(**{**about, **asked, **changes})
