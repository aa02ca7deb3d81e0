"""Derive from an encoder's config.json its shape and the name and shape of every checkpoint tensor."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compression.models.architectures import heads, tensor_names
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.pruning_groups import Tensors
from compression.models.architectures.shapes import parameters_at
from compression.models.architectures.tensor_names import (
    NAMES,
    EncoderTensorNames,
    ExpectedTensors,
    encoder_tensors,
    pooler_tensors,
    pretraining_tensors,
)
from compression.models.validation.config import labels_of, refused
from compression.schema.errors import CompressionError, ConfigMismatch, UnsupportedArchitecture
from compression.schema.report.measurements import Parameters, Shape


@dataclass(frozen=True)
class EncoderDescription:
    """An encoder as its config.json describes it.

    `labels` is None if its head has none, or if it has no head. `positions`: rows of the position table; `max_positions`: the
    maximum number of tokens in a text.
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
        """Return the task head; None for a bare encoder."""
        return heads.of_architecture(self.architecture)

    @property
    def biases(self) -> tuple[()]:
        """Return an empty tuple: encoders always have their biases, and no config sets them."""
        return ()

    @property
    def names(self) -> EncoderTensorNames:
        """Return the tensor and key names of the family."""
        return NAMES[self.kind]


def describe(config: Mapping[str, Any]) -> tuple[EncoderDescription | None, list[CompressionError]]:
    """Describe a config.json that `architecture_of` accepts, or return None and the errors."""
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
        labels, problem = labels_of(config)
        problems += [problem] if problem else []
    if problems:
        return None, problems
    rows = found["positions"]
    return EncoderDescription(
        kind, architecture, tensor_names.encoder_shape(found), rows, rows - first, found.get("types", 0), labels
    ), []


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
    """Return the tensors that the checkpoint must hold and those that it may hold."""
    heads_of = head_tensors(described)
    inner = encoder_tensors(described.kind, described.shape, described.positions, described.types)
    optional = optional_encoder_tensors(described)
    needed = heads_of if described.head is not None else {}
    return ExpectedTensors(described.names.prefix, inner, optional, needed, heads_of)


def parameters(described: EncoderDescription) -> Parameters:
    """Count the elements of unique weights, those of the tables separately."""
    labels = len(described.labels) if described.labels is not None else None
    return parameters_at(
        ARCHITECTURE_SPECS[described.kind],
        described.shape,
        rows=described.positions + described.types,
        outputs=labels,
        dense=labels is not None or described.names.pooler,
    )


def optional_encoder_tensors(described: EncoderDescription) -> Tensors:
    """Return the tensors that an encoder may also hold: its pooler, and a buffer from older versions."""
    return {**pooler_tensors(described.kind, described.shape), "embeddings.position_ids": (1, described.positions)}


def head_tensors(described: EncoderDescription) -> Tensors:
    """Return the tensors beside the encoder: its task head, or the pre-training heads, which are dropped."""
    shape, head = described.shape, described.head
    if head is not None:
        outputs = 2 if head == heads.READER else len(described.labels or ())
        return tensor_names.head_tensors(described.kind, shape, head, outputs)
    return pretraining_tensors(described.kind, shape.hidden, shape.vocabulary, shape.embedding or shape.hidden)
