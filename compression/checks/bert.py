"""What a BERT config.json implies: its shape, and the name and shape of every tensor of its checkpoint."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compression.errors import CompressionError, ConfigMismatch, UnsafeCheckpoint, UnsupportedArchitecture
from compression.forms import LONGEST_LABEL
from compression.report import Shape

CLASSIFIER = "BertForSequenceClassification"
MOST_LABELS = 1000

# Key of config.json → (stock default, the most that we take). The bounds keep a hostile number from costing memory.
INTEGERS: dict[str, tuple[int, int]] = {
    "vocab_size": (30522, 2_000_000),
    "hidden_size": (768, 16_384),
    "num_hidden_layers": (12, 256),
    "num_attention_heads": (12, 1_024),
    "intermediate_size": (3072, 131_072),
    "max_position_embeddings": (512, 131_072),
    "type_vocab_size": (2, 1_024),
}
FRACTIONS = ("layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "initializer_range")
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
    """A BERT as its config.json describes it. `labels` is None for a model without a classification head."""

    architecture: str
    shape: Shape
    positions: int
    types: int
    labels: tuple[str, ...] | None


def describe(config: Mapping[str, Any]) -> tuple[Described | None, list[CompressionError]]:
    """Read a config.json that `catalog.family_of` accepts as bert. Returns None with the reasons where it makes no sense."""
    problems = list(_refused(config))
    found: dict[str, int] = {}
    for key, (default, most) in INTEGERS.items():
        value = config.get(key, default)
        if type(value) is not int or not 1 <= value <= most:
            problems.append(ConfigMismatch(f"{key} is {value!r:.60} and not 1 to {most:,}", param=f"config.json:{key}"))
        else:
            found[key] = value
    padding = config.get("pad_token_id")
    if padding is not None and (type(padding) is not int or not 0 <= padding < found.get("vocab_size", 0)):
        cause = f"pad_token_id is {padding!r:.60} and not in the vocabulary"
        problems.append(ConfigMismatch(cause, param="config.json:pad_token_id"))
    hidden, heads = found.get("hidden_size"), found.get("num_attention_heads")
    if hidden and heads and hidden % heads:
        cause = f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
        problems.append(ConfigMismatch(cause, param="config.json:num_attention_heads"))
    names = config.get("architectures") or ["BertModel"]
    architecture = CLASSIFIER if CLASSIFIER in names else str(names[0])
    labels = None
    if architecture == CLASSIFIER:
        labels, problem = _labels(config)
        problems += [problem] if problem else []
    if problems:
        return None, problems
    shape = Shape(
        layers=found["num_hidden_layers"],
        hidden=found["hidden_size"],
        heads=found["num_attention_heads"],
        ffn=found["intermediate_size"],
        vocabulary=found["vocab_size"],
    )
    return Described(architecture, shape, found["max_position_embeddings"], found["type_vocab_size"], labels), []


def _refused(config: Mapping[str, Any]) -> Iterator[CompressionError]:
    """Yield what the stock BERT can be configured to, but Lathe cannot take apart or may not run."""
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
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        cause = f"hidden_act is {activation!r:.60} and not one of: {', '.join(ACTIVATIONS)}"
        yield UnsupportedArchitecture(cause, param="config.json:hidden_act")
    for key, stock in SETTINGS.items():
        if config.get(key, stock) != stock:
            yield ConfigMismatch(f"{key} is {config[key]!r:.60} and not {stock!r}", param=f"config.json:{key}")
    for key in FRACTIONS:
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


def encoder_tensors(described: Described) -> dict[str, tuple[int, ...]]:
    """Return name → shape of what every checkpoint of it must hold, without the prefix `bert.`."""
    shape = described.shape
    h, f = shape.hidden, shape.ffn
    out: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (shape.vocabulary, h),
        "embeddings.position_embeddings.weight": (described.positions, h),
        "embeddings.token_type_embeddings.weight": (described.types, h),
        **_pair("embeddings.LayerNorm", (h,), h),
    }
    for layer in range(shape.layers):
        at = f"encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            out |= _pair(f"{at}.attention.self.{name}", (h, h), h)
        out |= _pair(f"{at}.attention.output.dense", (h, h), h)
        out |= _pair(f"{at}.attention.output.LayerNorm", (h,), h)
        out |= _pair(f"{at}.intermediate.dense", (f, h), f)
        out |= _pair(f"{at}.output.dense", (h, f), h)
        out |= _pair(f"{at}.output.LayerNorm", (h,), h)
    return out


def optional_encoder_tensors(described: Described) -> dict[str, tuple[int, ...]]:
    """Return what an encoder may also hold: its pooler, and a buffer that older versions saved."""
    h = described.shape.hidden
    return {**_pair("pooler.dense", (h, h), h), "embeddings.position_ids": (1, described.positions)}


def head_tensors(described: Described) -> dict[str, tuple[int, ...]]:
    """Return what lies beside the encoder: the classifier, or the heads of pre-training, which are dropped."""
    h, vocabulary = described.shape.hidden, described.shape.vocabulary
    if described.labels is not None:
        return _pair("classifier", (len(described.labels), h), len(described.labels))
    return {
        "cls.predictions.bias": (vocabulary,),
        **_pair("cls.predictions.transform.dense", (h, h), h),
        **_pair("cls.predictions.transform.LayerNorm", (h,), h),
        **_pair("cls.predictions.decoder", (vocabulary, h), vocabulary),
        **_pair("cls.seq_relationship", (2, h), 2),
    }


def _pair(name: str, weight: tuple[int, ...], bias: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": (bias,)}
