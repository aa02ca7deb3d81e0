"""Open an ONNX file that anybody may have made: bounded before it is parsed, and nothing but one plain graph.

Format: protocol buffers, https://protobuf.dev/programming-guides/encoding/, with the messages of onnx/onnx.proto. A parser
makes objects of some hundred bytes of fields that take two bytes in the file, so fields are counted before it sees them.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compression.models.networks.graph import MOST_NODES
from compression.schema.errors import DamagedCheckpoint, UnsupportedArchitecture, listed
from compression.schema.file_names import ONE_ONNX_FILE

LARGEST_FILE = 2**31 - 1
"""Bytes: what a protocol buffer may have."""
LARGEST_TEXT = 64 << 20
"""Bytes of names, documentation and of numbers in packed lists, beside the tensors."""
MOST_FIELDS = 600_000
DEEPEST = 12
OPSETS = range(9, 24)
DOMAINS = ("", "ai.onnx")
PLAIN = frozenset({"FLOAT", "INT", "STRING", "TENSOR", "FLOATS", "INTS", "STRINGS"})
"""Kinds of attributes; the others hold graphs and types."""
INLINE = "Write functions out before: onnx.save(onnx.inliner.inline_local_functions(onnx.load(path)), new_path)."
AGAIN = "Export it for ONNX operator set 17 to 20: torch.onnx.export(..., opset_version=18)."
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MESSAGE, _NUMBERS, _FLOATS = 11, (3, 4, 5, 8, 13, 14, 17, 18), (1, 2)


def open_model(path: Path) -> tuple[onnx.ModelProto, int]:
    """Parse a file. -> the model and the version of its operators

    Raises DamagedCheckpoint if it is no ONNX file or is past the bounds, UnsupportedArchitecture if it is not one graph of
    ONNX's own operators with all weights inside.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            if len(mapped) > LARGEST_FILE:
                raise ValueError(f"it is larger than {LARGEST_FILE:,} bytes")
            _check_fields(mapped)
            model = onnx.ModelProto()
            with memoryview(mapped) as view:
                model.ParseFromString(view)
    except Exception as problem:  # the parser's errors have no common class; an empty file cannot be mapped
        raise DamagedCheckpoint(f"{path.name} is no whole ONNX file: {str(problem)[:200]}", param=path.name) from problem
    cause, remedy = next(_surplus(model), (None, None))
    if cause is not None:
        raise UnsupportedArchitecture(f"{path.name} {cause}", param=path.name, remedy=remedy)
    return model, next(each.version for each in model.opset_import if each.domain in DOMAINS)


def _surplus(model: onnx.ModelProto) -> Iterator[tuple[str, str | None]]:
    """Yield what a model has beside one graph of ONNX's own operators, with a remedy; None is the error's own."""
    versions = [each.version for each in model.opset_import if each.domain in DOMAINS]
    if len(versions) != 1 or versions[0] not in OPSETS:
        yield f"is of operator set {versions}; {OPSETS[0]} to {OPSETS[-1]} are known", AGAIN
    if len(model.graph.node) > MOST_NODES:
        yield f"has {len(model.graph.node):,} operators; {MOST_NODES:,} are the most", None
    if model.functions:
        yield f"has functions of its own, such as {model.functions[0].name!r:.100}", INLINE
    if model.training_info:
        yield "has a training graph", "Export the model for inference: model.eval() before torch.onnx.export."
    if model.graph.sparse_initializer:
        yield "has sparse weights", "Store them densely."
    tensors = [*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute if a.HasField("t"))]
    outside = [tensor.name for tensor in tensors if tensor.external_data or tensor.data_location != onnx.TensorProto.DEFAULT]
    if outside:
        yield f"has weights in other files: {listed(outside, 3)}", ONE_ONNX_FILE
    if any(tensor.HasField("segment") for tensor in tensors):
        yield "has tensors in parts", ONE_ONNX_FILE


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes: numbers, texts, tuples of them, tensors. Raises ValueError for graphs and the like."""
    found: dict[str, Any] = {}
    for each in node.attribute:
        kind = onnx.AttributeProto.AttributeType.Name(each.type)
        if kind not in PLAIN or each.ref_attr_name or each.name in found:
            raise ValueError(f"its attribute {each.name!r:.100} is a {kind.lower()}, or is there twice")
        value = {"FLOAT": _shortest(each.f), "INT": each.i, "STRING": each.s, "TENSOR": each.t}.get(kind)
        if value is None:
            value = tuple({"FLOATS": each.floats, "INTS": each.ints}.get(kind, each.strings))
        found[each.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return found


def _shortest(number: float) -> float:
    """Return the number with the fewest digits that is the same in float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(number)))


def _check_fields(data: mmap.mmap) -> None:
    """Walk through all fields without making objects. Raises ValueError where there are too many, or where they do not fit."""
    fields, text = 0, 0
    open_messages: list[tuple[Any, int, int, int]] = [(onnx.ModelProto.DESCRIPTOR, 0, len(data), 1)]
    while open_messages:
        message, place, end, depth = open_messages.pop()
        known = message.fields_by_number
        while place < end:
            fields += 1
            tag, place = _varint(data, place, end)
            field, wire = known.get(tag >> 3), tag & 7
            if wire == _BYTES:
                length, place = _varint(data, place, end)
                if field is not None and field.type == _MESSAGE:
                    open_messages.append((field.message_type, place, place + length, depth + 1))
                elif field is None or not (field.name == "raw_data" or field.type in _FLOATS):
                    text += length * 8 if field is not None and field.type in _NUMBERS else length
                place += length
            elif wire == _VARINT:
                place = _varint(data, place, end)[1]
            elif wire in (_FIXED64, _FIXED32):
                place += 8 if wire == _FIXED64 else 4
            else:
                raise ValueError(f"byte {place:,} begins no field")
            if place > end:
                raise ValueError(f"it ends at byte {end:,} within a field")
            if fields > MOST_FIELDS or text > LARGEST_TEXT or depth > DEEPEST:
                limits = f"{MOST_FIELDS:,} fields, {LARGEST_TEXT:,} bytes beside its tensors and a depth of {DEEPEST}"
                raise ValueError(f"it has more than {limits}")


def _varint(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    """Read a number of seven bits a byte. -> the number, and where it ends"""
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            raise ValueError(f"it ends at byte {end:,} within a number")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError(f"byte {place:,} ends no number")
