"""Derive from an encoder's config.json its shape and the name and shape of every checkpoint tensor."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compression.models.architectures import heads, tensor_names
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import parameters_at
from compression.models.architectures.tensor_names import (
    NAMES,
    EncoderTensorNames,
    ExpectedTensors,
    encoder_tensors,
    pooler_tensors,
    pretraining_tensors,
)
from compression.models.validation.config import labels_of, refused, several_classes, take_number
from compression.schema.errors import CompressionError, ConfigMismatch, UnsupportedArchitecture
from compression.schema.report.measurements import Parameters, Shape


@dataclass(frozen=True)
class EncoderDescription:
    """An encoder as its config.json describes it."""

    kind: str
    architecture: str
    shape: Shape
    positions: int  #: rows of the position table
    max_positions: int  #: the maximum number of tokens in a text
    types: int
    labels: tuple[str, ...] | None  #: None if its head has none, or if it has no head
    biases: tuple[()] = ()  #: encoders always have their biases, and no config sets them


def describe(config: Mapping[str, Any]) -> tuple[EncoderDescription | None, list[CompressionError]]:
    """Describe a config.json that `architecture_of` accepts, or return None and the errors."""
    kind = str(config["model_type"])
    known = NAMES[kind]
    problems = list(_refused(config, known))
    found: dict[str, int] = {}
    for meaning, (key, default, most) in known.keys.items():
        problems += take_number(found, meaning, key, config.get(key, default), most=most)
    first, problem = _first_position(config, known, found)
    problems += [problem] if problem else []
    hidden, parts = found.get("hidden"), found.get("heads")
    if hidden and parts and hidden % parts:
        keys = known.keys["hidden"][0], known.keys["heads"][0]
        cause = f"{keys[0]} {hidden} is not a multiple of {keys[1]} {parts}"
        problems.append(ConfigMismatch(cause, param=known.key("heads")))
    names = config.get("architectures") or [f"{known.stem}Model"]
    architecture = next((str(name) for name in names if heads.of_architecture(str(name))), str(names[0]))
    labels, head = None, heads.of_architecture(architecture)
    if head in (heads.CLASSIFIER, heads.TAGGER):
        labels, problem = labels_of(config)
        problems += [problem] if problem else []
    if head == heads.CLASSIFIER:
        problems += several_classes(config, labels)
    if problems:
        return None, problems
    shape, rows, types = tensor_names.encoder_shape(found), found["positions"], found.get("types", 0)
    return EncoderDescription(kind, architecture, shape, rows, rows - first, types, labels), []


def _first_position(
    config: Mapping[str, Any], known: EncoderTensorNames, found: Mapping[str, int]
) -> tuple[int, CompressionError | None]:
    """Return the position-table row of a text's first token, and an error if the padding id is wrong."""
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


def _refused(config: Mapping[str, Any], known: EncoderTensorNames) -> Iterator[CompressionError]:
    """Yield an error for each setting of the stock encoder that Lathe cannot prune or must not run."""
    yield from refused(config, known.activation, known.fixed, known.fractions)
    for key in ("is_decoder", "add_cross_attention"):
        if config.get(key):
            yield UnsupportedArchitecture(f"{key} is set: only encoders can be taken apart", param=f"config.json:{key}")
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        cause = f"position_embedding_type is {kind!r:.60} and not 'absolute'"
        yield UnsupportedArchitecture(cause, param="config.json:position_embedding_type")


def expected(described: EncoderDescription) -> ExpectedTensors:
    """Return the tensors that the checkpoint must hold and those that it may hold, such as its pooler and an old buffer."""
    kind, shape, head = described.kind, described.shape, heads.of_architecture(described.architecture)
    needed = encoder_tensors(kind, shape, described.positions, described.types)
    beside = {**pooler_tensors(kind, shape), "embeddings.position_ids": (1, described.positions)}
    if head is None:  # the pre-training heads are dropped
        dropped = pretraining_tensors(kind, shape.hidden, shape.vocabulary, shape.embedding or shape.hidden)
        return ExpectedTensors(NAMES[kind].prefix, needed, beside, {}, dropped)
    outer = tensor_names.head_tensors(kind, shape, head, 2 if head == heads.READER else len(described.labels or ()))
    return ExpectedTensors(NAMES[kind].prefix, needed, beside, outer, outer)


def parameters(described: EncoderDescription) -> Parameters:
    """Count the elements of unique weights, those of the tables separately."""
    head, rows = heads.of_architecture(described.architecture), described.positions + described.types
    outputs = 2 if head == heads.READER else len(described.labels or ())
    dense = head == heads.CLASSIFIER or (head is None and NAMES[described.kind].pooler)
    return parameters_at(ARCHITECTURE_SPECS[described.kind], described.shape, rows=rows, outputs=outputs, dense=dense)
