"""What the API needs to know: names, formats, metrics and settings. Torch-free.

Shows `ModalitySpec` and `TaskSpec` (a kind of data), `StageSpec` (a stage with a recipe key of its own) and `FormatSpec` (a
format of artifacts). Each names its engine half as `module:NAME`, which only the engine imports.
"""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config
from compression.schema.specs import CLASSIFIER, CardText, FormatSpec, ModalitySpec, StageSpec, TaskSpec

VECTORS = ModalitySpec(
    "vectors",
    (
        TaskSpec(
            "vector-classification",
            CLASSIFIER,
            formats=("jsonl", "ndjson"),
            metrics=("accuracy", "f1"),
            card=CardText(
                "A classifier of feature vectors for {count} labels ({names})",
                "tabular-classification",
                "vector",
                "lathe_toy",
                "",
            ),
            columns=("label",),
            named_labels=True,
            one_class=True,
            sequences=False,
        ),
    ),
    "lathe_toy.modality:VECTORS",
    data_files=(".vectors",),
)


class RoundSmall(Config):
    """Set the smallest weights of each linear layer to zero."""

    share: Annotated[float, Field(gt=0, lt=1, description="Share of each matrix's weights that become zero.")] = 0.1


ROUNDED = StageSpec("rounded", "round_small", "lathe_toy.round_small:STAGE", after="pruned", settings=RoundSmall)
NUMPY = FormatSpec(
    "numpy",
    engine="lathe_toy.numpy_format:EXPORTER",
    runtime="lathe_toy.numpy_runtime:open_folder",
    runs_in="NumPy",
    weights=("*.npz",),
)
