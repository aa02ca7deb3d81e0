"""Facts of models and data as published, for forecasts: no model is opened."""

from typing import Any

from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import parameters_at
from compression.schema.report.decoder_widths import Experts, Latent
from compression.schema.report.measurements import Shape
from compression.schema.validation import DataFacts, ModelFacts
from tests.support.decoder_models import STEMS

SMOLLM2 = Shape(layers=30, hidden=576, heads=9, ffn=1536, vocabulary=49152, groups=3, head_size=64)
LLAMA3 = Shape(layers=32, hidden=4096, heads=32, ffn=14336, vocabulary=128256, groups=8, head_size=128)
V2_LITE = Shape(layers=27, hidden=2048, heads=16, ffn=10944, vocabulary=102400, groups=16, head_size=192).model_copy(
    update={
        "experts": Experts(count=64, ffn=1408, shared=2816, chosen=6, dense_layers=1),
        "latent": Latent(query=None, kv=512, rope=64, value=128),
    }
)
V3 = Shape(layers=61, hidden=7168, heads=128, ffn=18432, vocabulary=129280, groups=128, head_size=192).model_copy(
    update={
        "experts": Experts(count=256, ffn=2048, shared=2048, chosen=8, groups=8, chosen_groups=4, dense_layers=3),
        "latent": Latent(query=1536, kv=512, rope=64, value=128),
    }
)
ROWS = {"train": 400, "validation": 40, "test": 60}
CHARACTERS = {name: 4000 * rows for name, rows in ROWS.items()}
WORDS = {"mean_words": 700.0, "longest_words": 9000}
TEXTS = DataFacts(task="causal-lm", labels=(), rows=ROWS, label_counts={"train": {}}, characters=CHARACTERS, **WORDS)


def decoder_facts(kind: str, shape: Shape, outputs: int = 0, head: str = "ForCausalLM", **changes: Any) -> ModelFacts:
    """Return the facts of a decoder in bfloat16. outputs: of its head, where that is not the table of its tokens."""
    parameters = parameters_at(ARCHITECTURE_SPECS[kind], shape, outputs=outputs)
    own = {"family": kind, "architecture": STEMS[kind] + head, "shape": shape, "max_positions": 8192, "labels": None}
    stored = {"parameters": parameters, "dtype": "bfloat16", "bytes": 2 * parameters.total}
    return ModelFacts.model_validate(own | stored | changes)
