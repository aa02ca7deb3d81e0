"""Published shapes of decoders, as config.json of each repository on huggingface.co states them, and what a forecast reads.

Nothing is downloaded: a test counts the parameters of each shape and compares them with the authors' totals. One shape is ours.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import parameters_at
from compression.planning.counted import Counted
from compression.schema.report.measurements import Shape

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Published:
    """A decoder's config as published. parameters: the total that its repository states."""

    source: str
    kind: str
    parameters: int
    config: dict[str, Any] = field(hash=False)

    @cached_property
    def stock(self) -> "PretrainedConfig":
        """Return the stock config, for rows of up to 2,048 tokens: positions have no weights."""
        from transformers import CONFIG_MAPPING

        return CONFIG_MAPPING[self.kind](**self.config, max_position_embeddings=2048, pad_token_id=None)

    def counted(self, shape: Shape | None = None) -> Counted:
        """Return what a forecast reads of the model at a shape, by default its own."""
        from compression.models.adapters.registry import adapter_of

        adapter, tied = adapter_of(self.stock), self.config["tie_word_embeddings"]
        shape = shape or adapter.shape_of(self.stock)
        spoken = 0 if tied else shape.vocabulary * shape.hidden
        outputs, biases = 0 if tied else shape.vocabulary, adapter.biases(self.stock)
        found = parameters_at(ARCHITECTURE_SPECS[self.kind], shape, outputs=outputs, biases=biases)
        return Counted(shape, found, tied, spoken)


def _of(kind: str, source: str, parameters: int, widths: tuple[int, int, int, int, int, int], **more: Any) -> Published:
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    return Published(source, kind, parameters, dict(zip(keys, widths, strict=True)) | {"tie_word_embeddings": False} | more)


LATENT = {"kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
EXPERTS = {"n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 1408}
SHAPES: dict[str, Published] = {
    "smollm2-135m": _of(
        "llama", "HuggingFaceTB/SmolLM2-135M", 134_515_008, (576, 30, 9, 3, 1536, 49152), tie_word_embeddings=True
    ),
    "smollm2-360m": _of(
        "llama", "HuggingFaceTB/SmolLM2-360M", 361_821_120, (960, 32, 15, 5, 2560, 49152), tie_word_embeddings=True
    ),
    "r1-distill-qwen-1.5b": _of(
        "qwen2", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1_777_088_000, (1536, 28, 12, 2, 8960, 151936)
    ),
    # Ours. The account names a DeepSeek of 2.13 billion parameters, and no published one has as many. It is wider than
    # R1-Distill-Qwen-1.5B: the same depth, vocabulary, size of heads and number of groups, feed-forward layers as many times as
    # wide as the stream (6.1 in place of 5.8). The output layer is its table, so that a classifier has 2.13 billion too.
    "account-2.1b": _of("qwen2", "none", 2_130_152_192, (1792, 28, 14, 2, 10976, 151936), tie_word_embeddings=True),
    "qwen3-4b": _of(
        "qwen3", "Qwen/Qwen3-4B", 4_022_468_096, (2560, 36, 32, 8, 9728, 151936), head_dim=128, tie_word_embeddings=True
    ),
    "llama-3.1-8b": _of("llama", "meta-llama/Llama-3.1-8B", 8_030_261_248, (4096, 32, 32, 8, 14336, 128256)),
    "deepseek-v2-lite": _of(
        "deepseek_v2",
        "deepseek-ai/DeepSeek-V2-Lite",
        15_706_484_224,
        (2048, 27, 16, 16, 10944, 102400),
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        **LATENT,
        **EXPERTS,
    ),
}
