"""What an encoder's config.json implies: its shape, and the name and shape of every tensor of its checkpoint."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compression import heads
from compression.checks.names import NAMES, Names, Tensors, pair, pretraining_tensors
from compression.errors import CompressionError, ConfigMismatch, UnsafeCheckpoint, UnsupportedArchitecture
from compression.forms import LONGEST_LABEL
from compression.report import Shape

MOST_LABELS = 1000
# What a config.json may say to the software, and not of the model: nothing else than what it does anyway.
SETTINGS: dict[str, Any] = {
    "attribute_map": {},
    "chunk_size_feed_forward": 0,
    "output_attentions": False,
    "output_hidden_states": False,
    "pruned_heads": {},
    "return_dict": True,
}
ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh")


@dataclass(frozen=True)
class Described:
    """An encoder as its config.json describes it. `labels` is None where its head has none, or where it has no head.

    `positions`: rows of the position table; `max_positions`: tokens that a text may have.
    """

    kind: str
    architecture: str
    shape: Shape
    positions: int
    max_positions: int
    types: int
    labels: tuple[str, ...] | None

    @property
    def head(self) -> heads.Head | None:
        """What answers a task; None for a bare encoder."""
        return heads.of_architecture(self.architecture)

    @property
    def names(self) -> Names:
        """What the family calls things."""
        return NAMES[self.kind]


def describe(config: Mapping[str, Any]) -> tuple[Described | None, list[CompressionError]]:
    """Read a config.json that `catalog.family_of` accepts. Returns None with the reasons where it makes no sense."""
    kind = str(config["model_type"])
    known = NAMES[kind]
    problems = list(_refused(config, known))
    found: dict[str, int] = {}
    for meaning, (key, default, most) in known.keys.items():
        value = config.get(key, default)
        if type(value) is not int or not 1 <= value <= most:
            problems.append(ConfigMismatch(f"{key} is {value!r:.60} and not 1 to {most:,}", param=f"config.json:{key}"))
        else:
            found[meaning] = value
    first, problem = _first_position(config, known, found)
    problems += [problem] if problem else []
    hidden, parts = found.get("hidden"), found.get("heads")
    if hidden and parts and hidden % parts:
        keys = known.keys["hidden"][0], known.keys["heads"][0]
        cause = f"{keys[0]} {hidden} is not a multiple of {keys[1]} {parts}"
        problems.append(ConfigMismatch(cause, param=known.key("heads")))
    names = config.get("architectures") or [f"{known.stem}Model"]
    architecture = next((str(name) for name in names if heads.of_architecture(str(name))), str(names[0]))
    labels = None
    if heads.of_architecture(architecture) in (heads.CLASSIFIER, heads.TAGGER):
        labels, problem = _labels(config)
        problems += [problem] if problem else []
    if problems:
        return None, problems
    widths = {meaning: found[meaning] for meaning in ("layers", "hidden", "heads", "ffn", "vocabulary")}
    tables = found.get("embedding")
    shape = Shape(**widths, embedding=tables if tables != found["hidden"] else None)
    rows = found["positions"]
    return Described(kind, architecture, shape, rows, rows - first, found.get("types", 0), labels), []


def _first_position(config: Mapping[str, Any], known: Names, found: Mapping[str, int]) -> tuple[int, CompressionError | None]:
    """Say which row of the position table a text's first token has, and what is wrong with the padding token's id."""
    padding = config.get("pad_token_id", known.padding)
    where = "config.json:pad_token_id"
    if padding is None and known.first_position is None:
        return 0, ConfigMismatch("pad_token_id is null, and positions are counted from it", param=where)
    if padding is not None and (type(padding) is not int or not 0 <= padding < found.get("vocabulary", 0)):
        return 0, ConfigMismatch(f"pad_token_id is {padding!r:.60} and not in the vocabulary", param=where)
    first = padding + 1 if known.first_position is None and padding is not None else known.first_position or 0
    rows = found.get("positions")
    if rows is not None and rows <= first:
        cause = f"{known.keys['positions'][0]} is {rows}, and the first {first} positions serve no token"
        return 0, ConfigMismatch(cause, param=known.key("positions"))
    return first, None


def _refused(config: Mapping[str, Any], known: Names) -> Iterator[CompressionError]:
    """Yield what the stock encoder can be configured to, but Lathe cannot take apart or may not run."""
    if "auto_map" in config:
        yield UnsafeCheckpoint("config.json names code to run (auto_map)", param="config.json:auto_map")
    for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
        if "/" in str(config.get(key)):
            # transformers takes such a name for a repository of compiled kernels, which it fetches and runs.
            yield UnsafeCheckpoint(f"config.json names a kernel to fetch ({key})", param=f"config.json:{key}")
    for key in ("is_decoder", "add_cross_attention"):
        if config.get(key):
            yield UnsupportedArchitecture(f"{key} is set: only encoders can be taken apart", param=f"config.json:{key}")
    if config.get("quantization_config"):
        yield UnsupportedArchitecture(
            "the checkpoint is quantized already (quantization_config)",
            param="config.json:quantization_config",
            remedy="Send the checkpoint as it was before it was quantized.",
        )
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        cause = f"position_embedding_type is {kind!r:.60} and not 'absolute'"
        yield UnsupportedArchitecture(cause, param="config.json:position_embedding_type")
    activation = config.get(known.activation, "gelu")
    if activation not in ACTIVATIONS:
        cause = f"{known.activation} is {activation!r:.60} and not one of: {', '.join(ACTIVATIONS)}"
        yield UnsupportedArchitecture(cause, param=f"config.json:{known.activation}")
    for key, stock in {**SETTINGS, **known.fixed}.items():
        if config.get(key, stock) != stock:
            yield ConfigMismatch(f"{key} is {config[key]!r:.60} and not {stock!r}", param=f"config.json:{key}")
    for key in known.fractions:
        value = config.get(key, 0.0)
        if value is None and key == "classifier_dropout":
            continue
        if type(value) not in (int, float) or not 0 <= value < 1:
            yield ConfigMismatch(f"{key} is {value!r:.60} and not a number from 0 to 1", param=f"config.json:{key}")


def _labels(config: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, CompressionError | None]:
    """Read the head's labels in the order of its outputs. Stock configs without id2label have num_labels, 2 by default."""
    names = config.get("id2label")
    if names is None:
        count = config.get("num_labels", 2)
        if type(count) is not int or not 1 <= count <= MOST_LABELS:
            return None, ConfigMismatch(f"num_labels is {count!r:.60}", param="config.json:num_labels")
        return tuple(f"LABEL_{number}" for number in range(count)), None
    if not isinstance(names, dict) or not 1 <= len(names) <= MOST_LABELS:
        return None, ConfigMismatch(f"id2label does not name 1 to {MOST_LABELS} labels", param="config.json:id2label")
    ordered = [names.get(str(number)) for number in range(len(names))]
    if not all(isinstance(label, str) and _proper(label) for label in ordered) or len(set(ordered)) != len(ordered):
        cause = (
            f"id2label does not give each of 0 to {len(names) - 1} a label of its own, of at most {LONGEST_LABEL} characters"
        )
        return None, ConfigMismatch(cause, param="config.json:id2label")
    return tuple(str(label) for label in ordered), None


def _proper(label: str) -> bool:
    """Say whether a label can be stored and shown: not endless, no NUL, no half of a surrogate pair."""
    return len(label) <= LONGEST_LABEL and not any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in label)


def encoder_tensors(described: Described) -> Tensors:
    """Return name → shape of what every checkpoint of it must hold, without the family's prefix."""
    shape, known = described.shape, described.names
    h, f, e = shape.hidden, shape.ffn, shape.embedding or shape.hidden
    out: Tensors = {
        "embeddings.word_embeddings.weight": (shape.vocabulary, e),
        "embeddings.position_embeddings.weight": (described.positions, e),
        **pair("embeddings.LayerNorm", (e,)),
    }
    if described.types:
        out["embeddings.token_type_embeddings.weight"] = (described.types, e)
    if shape.embedding:
        out |= pair("embeddings_project", (h, e))
    if buckets := known.fixed.get("relative_attention_num_buckets"):
        out["encoder.relative_attention_bias.weight"] = (buckets, shape.heads)
    widths = {"up": (f, h), "down": (h, f), "attended_norm": (h,), "norm": (h,)}
    for layer in range(shape.layers):
        for part, name in known.parts.items():
            out |= pair(f"{known.block}.{layer}.{name}", widths.get(part, (h, h)))
    return out


def optional_encoder_tensors(described: Described) -> Tensors:
    """Return what an encoder may also hold: its pooler, and a buffer that older versions saved."""
    h = described.shape.hidden
    pooler = pair("pooler.dense", (h, h)) if described.names.pooler else {}
    return {**pooler, "embeddings.position_ids": (1, described.positions)}


def head_tensors(described: Described) -> Tensors:
    """Return what lies beside the encoder: the head of its task, or the heads of pre-training, which are dropped."""
    shape, head = described.shape, described.head
    if head == heads.READER:
        return pair("qa_outputs", (2, shape.hidden))
    if head == heads.TAGGER:
        return pair("classifier", (len(described.labels or ()), shape.hidden))
    if described.labels is not None:
        dense, answer = described.names.head
        before = pair(dense, (shape.hidden, shape.hidden)) if dense else {}
        return {**before, **pair(answer, (len(described.labels), shape.hidden))}
    return pretraining_tensors(described.kind, shape.hidden, shape.vocabulary, shape.embedding or shape.hidden)
