"""Names of llama.cpp's architectures: the keys that a GGUF file may have, and its tensors.

The stock reader (transformers 5.24, modeling_gguf_pytorch_utils) uses defaults in place of keys that it does not know.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compression.models.architectures.decoder_tensor_names import FAMILIES, decoder_tensors
from compression.models.architectures.pruning_groups import Tensors
from compression.models.architectures.tensor_names import MOST_CHANNELS
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
"""Accepted ways to split text before merging. The stock reader or Lathe (`OWN_SPLITS`) knows them, or GPT-2's split, which the
reader uses for others, gives the same tokens: smollm separates digits, and its vocabulary has no merge across them."""

WHOLE_WORDS = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken"})
"""The members of `SPLITS` for which llama.cpp, unlike the stock reader, takes a word that is a token as it is, whatever the
merges make of it, and puts the beginning token before a text unless the file says otherwise."""


@dataclass(frozen=True)
class GgufDescription:
    """A decoder as its file describes it. `tied`: whether the head is the token table."""

    kind: str
    shape: Shape
    positions: int
    head: int
    tied: bool

    @property
    def tensors(self) -> Tensors:
        """Return the tensors of the file, with shapes in torch's order: the stock model's, under llama.cpp's names."""
        block = FAMILIES[self.kind].block
        found: Tensors = {} if self.tied else {"output.weight": (self.shape.vocabulary, self.shape.hidden)}
        for name, shape in decoder_tensors(self.kind, self.shape, self.positions, ()).items():
            module, _, end = name.rpartition(".")
            if not module.startswith(f"{block}."):
                found[f"{NAMES[module]}.{end}"] = shape
                continue
            _, number, part = module.split(".", 2)
            # GPT-2's stock code transposes the matrices in its layers (Conv1D).
            found[f"blk.{number}.{NAMES[part]}.{end}"] = shape[::-1] if self.kind == "gpt2" else shape
        return found


@dataclass(frozen=True)
class GgufArchitecture:
    """One of llama.cpp's architectures that stock code reads."""

    model: str
    keys: tuple[str, ...]  #: those that it may have beside `WHOLE`
    head: int | None = None  #: the size of a head; None if it is hidden / heads or the value of `head_key`
    head_key: str | None = None
    epsilon: str = "attention.layer_norm_rms_epsilon"  #: the key of the norms' ε
    fixed: Callable[[GgufDescription], Mapping[str, int]] = lambda _: {}  #: values that the stock reader assumes
    scales: bool = False  #: whether its positions may be scaled (`files.gguf_rope`)


NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_proj": "attn_k",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    # GPT-2
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
"""llama.cpp's names of the stock models' modules."""
ROTARY = ("attention.head_count_kv", "rope.freq_base", "vocab_size")
ARCHITECTURES: dict[str, GgufArchitecture] = {
    "llama": GgufArchitecture(
        "LlamaForCausalLM", (*ROTARY, "rope.dimension_count"), head_key="rope.dimension_count", scales=True
    ),
    "qwen2": GgufArchitecture("Qwen2ForCausalLM", ROTARY),
    # The stock reader does not read the head size from the file; the stock config's own is 128.
    "qwen3": GgufArchitecture("Qwen3ForCausalLM", ROTARY, head=128),
    "gpt2": GgufArchitecture(
        "GPT2LMHeadModel",
        (),
        epsilon="attention.layer_norm_epsilon",
        fixed=lambda model: {"context_length": 1024, "feed_forward_length": 4 * model.shape.hidden},
    ),
}
"""Architectures by general.architecture, which is also the model_type of the stock config. llama.cpp stores Mistral as llama;
they are the same except for the window of Mistral's first version."""
