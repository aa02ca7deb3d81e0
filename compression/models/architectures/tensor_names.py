"""Names of each encoder family: the keys of its config.json, and the tensors of its checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from compression.models.architectures import heads
from compression.models.architectures.pruning_groups import Tensors, Width
from compression.schema.report.measurements import Shape

Key = tuple[str, int, int]
"""A key of config.json, its stock default, and the largest value that Lathe accepts: hostile numbers would use up memory."""


@dataclass(frozen=True)
class ExpectedTensors:
    """Name → shape of the tensors that a checkpoint must hold, and of those that it may also hold."""

    prefix: str  #: of the bare model's names if the checkpoint is of a model with a head; here they lack it
    needed: Tensors
    beside: Tensors
    head: Tensors
    head_beside: Tensors
    behind: Mapping[str, Tensors] = field(default_factory=dict)  #: may be held only if the tensor that is the key is
    called: Callable[[str], str] = str  #: what a file's tensor is called here, if files have several names for it


TABLES = tuple(f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type"))
MOST_CHANNELS = 16_384
BERT_KEYS: Mapping[str, Key] = {
    "vocabulary": ("vocab_size", 30522, 2_000_000),
    "hidden": ("hidden_size", 768, MOST_CHANNELS),
    "layers": ("num_hidden_layers", 12, 256),
    "heads": ("num_attention_heads", 12, 1_024),
    "ffn": ("intermediate_size", 3072, 131_072),
    "positions": ("max_position_embeddings", 512, 131_072),
    "types": ("type_vocab_size", 2, 1_024),
}
BERT_FRACTIONS = (
    "layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "initializer_range",
)  # fmt: skip
BERT_PARTS: Mapping[str, str] = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "attended_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}


@dataclass(frozen=True)
class EncoderTensorNames:
    """One family's names."""

    stem: str
    prefix: str
    keys: Mapping[str, Key] = field(default_factory=lambda: BERT_KEYS)  #: by meaning, without those that the family lacks
    fractions: tuple[str, ...] = BERT_FRACTIONS
    activation: str = "hidden_act"
    padding: int = 0
    first_position: int | None = 0  #: the position-table row of a text's first token; None: the padding token's id + 1
    fixed: Mapping[str, Any] = field(default_factory=dict)  #: keys for which the stock code accepts only one value
    block: str = "encoder.layer"
    parts: Mapping[str, str] = field(default_factory=lambda: BERT_PARTS)
    pooler: bool = True  #: whether the bare stock model has one
    head: tuple[str, str] = ("classifier.dense", "classifier.out_proj")  #: dense and output layer, for sequences
    attention: str = "sdpa"  #: the fastest implementation of the stock code

    def key(self, meaning: str) -> str:
        """Return the config.json key with a meaning, as errors name it."""
        return f"config.json:{self.keys[meaning][0]}"


NO_TYPES = {meaning: key for meaning, key in BERT_KEYS.items() if meaning != "types"}
NAMES: dict[str, EncoderTensorNames] = {
    # In BERT the dense layer before the output layer is the pooler, which belongs to the encoder.
    "bert": EncoderTensorNames(stem="Bert", prefix="bert.", head=("", "classifier")),
    "distilbert": EncoderTensorNames(
        stem="DistilBert",
        prefix="distilbert.",
        keys={
            **NO_TYPES,
            "hidden": ("dim", 768, MOST_CHANNELS),
            "layers": ("n_layers", 6, 256),
            "heads": ("n_heads", 12, 1_024),
            "ffn": ("hidden_dim", 3072, 131_072),
        },
        fractions=("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout", "initializer_range"),
        activation="activation",
        block="transformer.layer",
        parts={
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "attended": "attention.out_lin",
            "attended_norm": "sa_layer_norm",
            "up": "ffn.lin1",
            "down": "ffn.lin2",
            "norm": "output_layer_norm",
        },
        pooler=False,
        head=("pre_classifier", "classifier"),
    ),
    "roberta": EncoderTensorNames(
        stem="Roberta",
        prefix="roberta.",
        keys={**BERT_KEYS, "vocabulary": ("vocab_size", 50265, 2_000_000)},
        padding=1,
        first_position=None,
    ),
    "xlm-roberta": EncoderTensorNames(stem="XLMRoberta", prefix="roberta.", padding=1, first_position=None),
    "electra": EncoderTensorNames(
        stem="Electra",
        prefix="electra.",
        keys={
            **BERT_KEYS,
            "hidden": ("hidden_size", 256, MOST_CHANNELS),
            "heads": ("num_attention_heads", 4, 1_024),
            "ffn": ("intermediate_size", 1024, 131_072),
            "embedding": ("embedding_size", 128, MOST_CHANNELS),
        },
        pooler=False,
    ),
    "mpnet": EncoderTensorNames(
        stem="MPNet",
        prefix="mpnet.",
        keys={**NO_TYPES, "vocabulary": ("vocab_size", 30527, 2_000_000)},
        padding=1,
        first_position=2,
        attention="eager",
        fixed={"relative_attention_num_buckets": 32, "pad_token_id": 1},
        parts={
            **BERT_PARTS,
            "query": "attention.attn.q",
            "key": "attention.attn.k",
            "value": "attention.attn.v",
            "attended": "attention.attn.o",
            "attended_norm": "attention.LayerNorm",
        },
    ),
}
"""Names by the model_type of config.json."""


def encoder_shape(n: Mapping[str, int]) -> Shape:
    """Return the shape that the numbers of a config describe. n: the numbers by their meaning."""
    widths = {meaning: n[meaning] for meaning in ("layers", "hidden", "heads", "ffn", "vocabulary")}
    tables = n.get("embedding", n["hidden"])
    return Shape(**widths, embedding=tables if tables != n["hidden"] else None)


def encoder_tensors(kind: str, shape: Shape, positions: int, types: int) -> Tensors:
    """Return the tensors that every bare encoder has, without its prefix. positions, types: the rows of these tables."""
    known, hidden = NAMES[kind], Width(shape.hidden, "hidden")
    embedding = shape.embedding or hidden
    out: Tensors = {
        "embeddings.word_embeddings.weight": (Width(shape.vocabulary, "vocabulary"), embedding),
        "embeddings.position_embeddings.weight": (positions, embedding),
        **pair("embeddings.LayerNorm", (embedding,)),
    }
    if types:
        out["embeddings.token_type_embeddings.weight"] = (types, embedding)
    if shape.embedding:
        out |= pair("embeddings_project", (hidden, embedding))
    if buckets := known.fixed.get("relative_attention_num_buckets"):
        out["encoder.relative_attention_bias.weight"] = (buckets, Width(shape.heads, "heads"))
    for layer in range(shape.layers):
        ffn, size = Width(shape.each_ffn[layer], "ffn", layer), shape.hidden // shape.heads
        compared = Width(shape.heads, "heads", layer, unit_size=size, channels="compared")
        values = Width(shape.heads, "heads", layer, unit_size=size, channels="values")
        parts: Tensors = {
            **dict.fromkeys(("query", "key"), (compared, hidden)),
            "value": (values, hidden),
            "attended": (hidden, values),
            **dict.fromkeys(("attended_norm", "norm"), (hidden,)),
            "up": (ffn, hidden),
            "down": (hidden, ffn),
        }
        for part, name in known.parts.items():
            out |= pair(f"{known.block}.{layer}.{name}", parts[part])
    return out


def pooler_tensors(kind: str, shape: Shape) -> Tensors:
    """Return the pooler of a bare encoder, which its family's checkpoints may hold. Its outputs are a separate space."""
    pooled = Width(shape.hidden, "pooled"), Width(shape.hidden, "hidden")
    return pair("pooler.dense", pooled) if NAMES[kind].pooler else {}


def head_tensors(kind: str, shape: Shape, head: heads.Head, outputs: int) -> Tensors:
    """Return the tensors of a task's head; a classifier of sequences has a dense layer before its output layer."""
    hidden, pooled = Width(shape.hidden, "hidden"), Width(shape.hidden, "pooled")
    if head in (heads.READER, heads.TAGGER):
        return pair("qa_outputs" if head == heads.READER else "classifier", (outputs, hidden))
    dense, answer = NAMES[kind].head
    return {**(pair(dense, (pooled, hidden)) if dense else {}), **pair(answer, (outputs, pooled))}


def pretraining_tensors(kind: str, hidden: int, vocabulary: int, embedding: int) -> Tensors:
    """Return the pre-training heads that a checkpoint may hold beside its encoder; they are dropped."""
    square, tokens = (hidden, hidden), (vocabulary, hidden)
    weights: dict[str, Tensors] = {
        "bert": {
            "cls.predictions.transform.dense": square,
            "cls.predictions.transform.LayerNorm": (hidden,),
            "cls.predictions.decoder": tokens,
            "cls.seq_relationship": (2, hidden),
        },
        "distilbert": {"vocab_transform": square, "vocab_layer_norm": (hidden,), "vocab_projector": tokens},
        "electra": {
            "discriminator_predictions.dense": square,
            "discriminator_predictions.dense_prediction": (1, hidden),
            "generator_predictions.LayerNorm": (embedding,),
            "generator_predictions.dense": (embedding, hidden),
            "generator_lm_head": (vocabulary, embedding),
        },
    }
    masked: Tensors = {"lm_head.dense": square, "lm_head.layer_norm": (hidden,), "lm_head.decoder": tokens}
    bias = {"bert": "cls.predictions.bias", "distilbert": None, "electra": None}.get(kind, "lm_head.bias")
    found: Tensors = {bias: (vocabulary,)} if bias else {}
    for name, widths in weights.get(kind, masked).items():
        found |= pair(name, widths)
    return found


def pair(name: str, weight: tuple[int, ...]) -> Tensors:
    """Return a weight and its bias, one number per output."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}
