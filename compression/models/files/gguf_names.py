"""Names of llama.cpp's architectures: the keys of a GGUF file, and its tensors.

The stock reader (transformers 5.24, modeling_gguf_pytorch_utils) reads the keys that it knows and ignores the others, for which
it uses defaults. So this module lists the keys that a file may have for its architecture.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compression.models.architectures.pruning_groups import Tensors
from compression.models.architectures.tensor_names import MOST_CHANNELS, pair
from compression.models.files.gguf_splits import OWN_SPLITS
from compression.schema.report.measurements import Shape

WHOLE: dict[str, tuple[str, int]] = {
    "layers": ("block_count", 256),
    "positions": ("context_length", 1 << 24),
    "hidden": ("embedding_length", MOST_CHANNELS),
    "ffn": ("feed_forward_length", 131_072),
    "heads": ("attention.head_count", 1_024),
}
"""The numbers that every architecture must give, and the largest that Lathe accepts."""
MOST_TOKENS = 2_000_000
TOKENIZERS = ("gpt2", "llama")
SPLITS = frozenset(
    {
        "gpt-2", "smollm", "llama3", "llama-v3", "llama-bpe", "falcon3", "smaug-bpe", "dbrx", "tekken", "pixtral",
        "qwen2", "deepseek-r1-qwen", "megrez", "gpt-4o", "llama4", *OWN_SPLITS,
    }
)  # fmt: skip
"""Ways to split text before merging that Lathe accepts. The stock reader knows the split, or Lathe knows it (`OWN_SPLITS`), or
GPT-2's split, which the reader uses for others, gives the same tokens: smollm separates digits, and its vocabulary has no merge
across them."""

WHOLE_WORDS = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken"})
"""The members of `SPLITS` for which llama.cpp does not merge a word that is a token. It takes such a word as it is, whatever
the merges make of it, and puts the beginning token before a text unless the file says otherwise. The stock reader does
neither."""


@dataclass(frozen=True)
class GgufDescription:
    """A decoder as its file describes it. `groups`: the number of KV heads; `tied`: whether the head is the token table."""

    kind: str
    shape: Shape
    positions: int
    groups: int
    head: int
    tied: bool


@dataclass(frozen=True)
class GgufArchitecture:
    """One of llama.cpp's architectures that stock code reads.

    `keys`: the keys that it may have beside `WHOLE`. `head`: the size of a head; None if it is hidden / heads or the value of
    `head_key`. `epsilon`: the key of the norms' ε. `fixed`: values that the stock reader assumes without checking. `scales`:
    whether its positions may be scaled (`files.gguf_rope`).
    """

    model_type: str
    model: str
    keys: tuple[str, ...]
    tensors: Callable[[GgufDescription], Tensors]
    head: int | None = None
    head_key: str | None = None
    epsilon: str = "attention.layer_norm_rms_epsilon"
    fixed: Callable[[GgufDescription], Mapping[str, int]] = lambda _: {}
    scales: bool = False


def _llama(model: GgufDescription) -> Tensors:
    shape, h = model.shape, model.shape.hidden
    queries, values = shape.heads * model.head, model.groups * model.head
    out: Tensors = {"token_embd.weight": (shape.vocabulary, h), "output_norm.weight": (h,)}
    if not model.tied:
        out["output.weight"] = (shape.vocabulary, h)
    widths: Tensors = {
        "attn_norm": (h,),
        "attn_q": (queries, h),
        "attn_k": (values, h),
        "attn_v": (values, h),
        "attn_output": (h, queries),
        "ffn_norm": (h,),
        "ffn_gate": (shape.ffn, h),
        "ffn_up": (shape.ffn, h),
        "ffn_down": (h, shape.ffn),
    }
    for layer in range(shape.layers):
        out |= {f"blk.{layer}.{name}.weight": width for name, width in widths.items()}
    return out


def _qwen2(model: GgufDescription) -> Tensors:
    out = _llama(model)
    biases = {"attn_q": model.shape.heads, "attn_k": model.groups, "attn_v": model.groups}
    for layer in range(model.shape.layers):
        out |= {f"blk.{layer}.{name}.bias": (heads * model.head,) for name, heads in biases.items()}
    return out


def _qwen3(model: GgufDescription) -> Tensors:
    out = _llama(model)
    for layer in range(model.shape.layers):
        out |= {f"blk.{layer}.{name}.weight": (model.head,) for name in ("attn_q_norm", "attn_k_norm")}
    return out


def _gpt2(model: GgufDescription) -> Tensors:
    shape, h = model.shape, model.shape.hidden
    out: Tensors = {
        "token_embd.weight": (shape.vocabulary, h),
        "position_embd.weight": (model.positions, h),
        **pair("output_norm", (h,)),
    }
    if not model.tied:
        out["output.weight"] = (shape.vocabulary, h)
    widths: Tensors = {
        "attn_norm": (h,),
        "attn_qkv": (3 * h, h),
        "attn_output": (h, h),
        "ffn_norm": (h,),
        "ffn_up": (shape.ffn, h),
        "ffn_down": (h, shape.ffn),
    }
    for layer in range(shape.layers):
        for name, width in widths.items():
            out |= pair(f"blk.{layer}.{name}", width)
    return out


ROTARY = ("attention.head_count_kv", "rope.freq_base", "vocab_size")
ARCHITECTURES: dict[str, GgufArchitecture] = {
    "llama": GgufArchitecture(
        "llama", "LlamaForCausalLM", (*ROTARY, "rope.dimension_count"), _llama, head_key="rope.dimension_count", scales=True
    ),
    "qwen2": GgufArchitecture("qwen2", "Qwen2ForCausalLM", ROTARY, _qwen2),
    # The stock reader does not read the head size from the file; the stock config's own is 128.
    "qwen3": GgufArchitecture("qwen3", "Qwen3ForCausalLM", ROTARY, _qwen3, head=128),
    "gpt2": GgufArchitecture(
        "gpt2",
        "GPT2LMHeadModel",
        (),
        _gpt2,
        epsilon="attention.layer_norm_epsilon",
        fixed=lambda model: {"context_length": 1024, "feed_forward_length": 4 * model.shape.hidden},
    ),
}
"""Architectures by general.architecture. llama.cpp stores Mistral as llama; they are the same except for the window of
Mistral's first version."""
