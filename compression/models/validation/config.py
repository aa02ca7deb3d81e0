"""Check the config.json keys that no family may set: kernels to fetch, settings of the software. auto_map is dropped later."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from compression.schema.errors import CompressionError, ConfigMismatch, UnsafeCheckpoint, UnsupportedArchitecture
from compression.schema.job_spec import LONGEST_LABEL

MOST_LABELS = 1000
ONE_CLASS = "Send a model that was trained to choose one label, or the model without its head, which then gets a new one."
# Keys that configure the software and not the model: only the stock value is accepted.
SETTINGS: dict[str, Any] = {
    "attribute_map": {},
    "chunk_size_feed_forward": 0,
    "output_attentions": False,
    "output_hidden_states": False,
    "pruned_heads": {},
    "return_dict": True,
    "tie_last_hidden_states": True,
}
ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh")


def refused(
    config: Mapping[str, Any], activation: str, fixed: Mapping[str, Any], fractions: tuple[str, ...]
) -> Iterator[CompressionError]:
    """Yield an error for each wrong setting. fixed: keys with one accepted value; fractions: keys of numbers from 0 to 1."""
    for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
        if "/" in str(config.get(key)):
            # transformers treats such a name as a repository of compiled kernels, which it fetches and runs.
            yield UnsafeCheckpoint(f"config.json names a kernel to fetch ({key})", param=f"config.json:{key}")
    if config.get("quantization_config"):
        cause, remedy = "the checkpoint is quantized already", "Send the checkpoint as it was before it was quantized."
        yield UnsupportedArchitecture(f"{cause} (quantization_config)", param="config.json:quantization_config", remedy=remedy)
    value = config.get(activation, ACTIVATIONS[0])
    if value not in ACTIVATIONS:
        cause = f"{activation} is {value!r:.60} and not one of: {', '.join(ACTIVATIONS)}"
        yield UnsupportedArchitecture(cause, param=f"config.json:{activation}")
    for key, stock in {**SETTINGS, **fixed}.items():
        if config.get(key, stock) != stock:
            yield ConfigMismatch(f"{key} is {config[key]!r:.60} and not {stock!r}", param=f"config.json:{key}")
    for key in fractions:
        value = config.get(key, 0.0)
        if value is None and key == "classifier_dropout":
            continue
        if type(value) not in (int, float) or not 0 <= value < 1:
            yield ConfigMismatch(f"{key} is {value!r:.60} and not a number from 0 to 1", param=f"config.json:{key}")


def take_number(
    found: dict[str, int], meaning: str, key: str, value: object, *, most: int, least: int = 1
) -> Iterator[CompressionError]:
    """Add a number of a config to `found`, or yield an error if it is no whole number from `least` to `most`."""
    if type(value) is int and least <= value <= most:
        found[meaning] = value
    else:
        yield ConfigMismatch(f"{key} is {value!r:.60} and not {least} to {most:,}", param=f"config.json:{key}")


def several_classes(config: Mapping[str, Any], labels: Collection[str] | None) -> Iterator[CompressionError]:
    """Yield an error if a classifier gives each of its labels a probability of its own. labels: of its head, if it has one.

    Training and soft targets take the outputs for one distribution over the labels, which these are not.
    """
    if labels is not None and len(labels) > 1 and config.get("problem_type") == "multi_label_classification":
        cause = "problem_type is 'multi_label_classification': a text must have one class"
        yield UnsupportedArchitecture(cause, param="config.json:problem_type", remedy=ONE_CLASS)


def told_apart(labels: Iterable[Any]) -> Iterator[str]:
    """Yield labels; one that came before (ImageNet's "crane") gets its number: "crane (517)"."""
    seen = set()
    for number, label in enumerate(labels):
        yield f"{label} ({number})" if label in seen else label
        seen.add(label)


def labels_of(config: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, CompressionError | None]:
    """Return the head's labels in the order of its outputs, or an error. Stock configs without id2label have num_labels."""
    names = config.get("id2label")
    if names is None:
        count = config.get("num_labels", 2)
        if type(count) is not int or not 1 <= count <= MOST_LABELS:
            return None, ConfigMismatch(f"num_labels is {count!r:.60}", param="config.json:num_labels")
        return tuple(f"LABEL_{number}" for number in range(count)), None
    if not isinstance(names, dict) or not 1 <= len(names) <= MOST_LABELS:
        return None, ConfigMismatch(f"id2label does not name 1 to {MOST_LABELS} labels", param="config.json:id2label")
    ordered = [names.get(str(number)) for number in range(len(names))]
    labels = tuple(label for label in ordered if isinstance(label, str) and is_proper(label))
    if len(set(labels)) != len(names):
        cause = f"id2label does not give each of 0 to {len(names) - 1} its own label of at most {LONGEST_LABEL} characters"
        return None, ConfigMismatch(cause, param="config.json:id2label")
    return labels, None


def is_proper(label: str) -> bool:
    """Return whether a label can be stored and shown: limited length, no NUL, no lone surrogate."""
    return len(label) <= LONGEST_LABEL and not any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in label)
