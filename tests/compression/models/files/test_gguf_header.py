"""GGUF files: what is read is what the field's package reads, and no lie of a header costs more than an error."""

import struct
from pathlib import Path

import gguf as field
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from hypothesis import HealthCheck, given, settings, strategies as st

from compression.models.files import gguf_header
from compression.schema.errors import DamagedCheckpoint, UnsupportedArchitecture

fuzzed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def small(path: Path) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_string("some.text", "grüße")
    writer.add_array("some.words", ["a", "bc", ""])
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_float32("some.float", 0.5)
    writer.add_bool("some.bool", True)
    values = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)
    writer.add_tensor("plain", values[:, :3])
    for kind in (GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0, GGMLQuantizationType.BF16):
        writer.add_tensor(f"packed.{kind.name}", field.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def agrees_with_the_package(path: Path) -> gguf_header.Gguf | None:
    """What we let pass, the field's reader takes as well, and finds in it what we do; the rest is refused with a code."""
    try:
        found = gguf_header.read(path)
    except (DamagedCheckpoint, UnsupportedArchitecture):
        return None
    other = GGUFReader(path)
    assert {key for key in other.fields if not key.startswith("GGUF.")} == set(found.metadata)
    for key, value in found.metadata.items():
        theirs = other.fields[key].contents()
        assert theirs == value or value != value or value == [], key  # (NaN; empty arrays have no type there)
    assert [tensor.name for tensor in other.tensors] == [tensor.name for tensor in found.tensors]
    for theirs, ours in zip(other.tensors, found.tensors, strict=True):
        assert (theirs.tensor_type.name, theirs.data_offset, theirs.n_bytes) == (ours.dtype, ours.start, ours.end - ours.start)
        assert tuple(reversed(theirs.shape.tolist())) == ours.shape
    return found


def test_what_is_read_is_what_the_package_wrote(tmp_path: Path) -> None:
    found = agrees_with_the_package(small(tmp_path / "model.gguf"))
    assert (found.metadata["some.text"], found.metadata["some.words"]) == ("grüße", ["a", "bc", ""])
    assert [tensor.shape for tensor in found.tensors] == [(2, 3), (2, 64), (2, 64), (2, 64)]
    assert found.dtype == "BF16"
    assert not list(gguf_header.not_finite(tmp_path, found.tensors))


def test_types_are_those_of_the_package() -> None:
    for number, kind in gguf_header.KINDS.items():
        theirs = GGMLQuantizationType(number)
        assert (kind.name, (kind.elements, kind.bytes)) == (theirs.name, field.GGML_QUANT_SIZES[theirs])


@pytest.mark.parametrize("kind", [kind for kind in gguf_header.KINDS.values() if kind.halves], ids=lambda kind: kind.name)
def test_each_scale_that_is_no_number_is_found_and_makes_none(kind: gguf_header.GgufType, tmp_path: Path) -> None:
    theirs = GGMLQuantizationType[kind.name]
    for start in range(kind.bytes - 1):
        block = bytearray(kind.bytes)
        block[start : start + 2] = b"\x00\x7c"  # infinite, if it is a float16
        with np.errstate(invalid="ignore"):
            values = field.dequantize(np.frombuffer(bytes(block), np.uint8)[None], theirs)
        broken = not np.isfinite(values).all()
        assert broken == (start in kind.halves), start
        if broken:
            (tmp_path / "data").write_bytes(bytes(kind.bytes) + bytes(block))
            tensor = gguf_header.Tensor("weight", kind.name, (2, kind.elements), "data", 0, 2 * kind.bytes)
            assert [problem.code for problem in gguf_header.not_finite(tmp_path, (tensor,))] == ["damaged_checkpoint"]


def header(*, version: int = 3, tensors: int = 0, keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def entry(name: bytes = b"t", dimensions: tuple[int, ...] = (2,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)


def padded(head: bytes, data: bytes) -> bytes:
    return head + bytes(-len(head) % 32) + data


WHOLE = padded(header(tensors=1) + entry(), bytes(8))
BOMB = 2**62


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "ends within"),
        (b"GGUX" + WHOLE[4:], "does not begin"),
        (padded(header(version=1, tensors=1) + entry(), bytes(8)), "version 1"),
        (header(version=3 << 24, tensors=1), "other byte order"),
        (header(tensors=BOMB), "claims"),
        (header(keys=BOMB), "claims"),
        (header(keys=1) + struct.pack("<Q", BOMB), "claims"),
        (header(keys=1) + struct.pack("<Q", 5000) + b"short", "ends within"),
        (header(keys=1) + text(b"\xff") + struct.pack("<IB", 0, 1), "not UTF-8"),
        (header(keys=1) + text(b"k") + struct.pack("<I", 77), "unknown type"),
        (header(keys=1) + text(b"k") + struct.pack("<IQ", 8, BOMB), "claims"),
        (header(keys=1) + text(b"k") + struct.pack("<IIQ", 9, 8, BOMB), "claims"),
        (header(keys=1) + text(b"k") + struct.pack("<IIQ", 9, 4, BOMB), "claims"),
        (header(keys=1) + text(b"k") + struct.pack("<IIQ", 9, 4, 3_000_000), "ends within"),
        (header(keys=1) + text(b"k") + struct.pack("<IIQ", 9, 9, 1), "array of type 9"),
        (header(keys=2) + (text(b"k") + struct.pack("<IB", 0, 1)) * 2, "twice"),
        (header(tensors=1) + entry(dimensions=()), "no proper shape"),
        (header(tensors=1) + entry(dimensions=(0,)), "no proper shape"),
        (header(tensors=1) + entry(dimensions=(2**40, 2**40)), "no proper shape"),
        (header(tensors=1) + entry(dimensions=(1,) * 5), "claims"),
        (header(tensors=1) + entry(name=b"n" * 65), "claims"),
        (header(tensors=1) + entry(kind=2), "not of whole Q4_0 blocks"),
        (padded(header(tensors=1) + entry(offset=32), bytes(64)), "does not begin where"),
        (padded(header(tensors=2) + entry(b"a") + entry(b"b"), bytes(64)), "does not begin where"),
        (padded(header(tensors=2) + entry() + entry(offset=32), bytes(64)), "same name"),
        (WHOLE[:-1], "ends at byte"),
        (WHOLE + bytes(25), "end at byte"),
        (padded(header(), b""), "no tensors"),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else value,
)
def test_a_lie_is_told_before_anything_is_made_of_it(data: bytes, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(WHOLE)
    gguf_header.read(path)
    path.write_bytes(data)
    with pytest.raises(DamagedCheckpoint, match=cause):
        gguf_header.read(path)


@pytest.mark.parametrize("number", [16, 39, 1000])
def test_a_type_that_is_not_known_is_refused_by_number(number: int, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(padded(header(tensors=1) + entry(dimensions=(256,), kind=number), bytes(256)))
    with pytest.raises(UnsupportedArchitecture, match=f"type {number},"):
        gguf_header.read(path)


@pytest.mark.parametrize(("kind", "value"), [(4, 0), (4, 48), (4, 1 << 20), (5, 32), (10, 32)])
def test_an_alignment_that_is_none_is_refused(kind: int, value: int, tmp_path: Path) -> None:
    raw = struct.pack(gguf_header.SCALARS[kind], value)
    path = tmp_path / "model.gguf"
    path.write_bytes(header(keys=1) + text(b"general.alignment") + struct.pack("<I", kind) + raw)
    with pytest.raises(DamagedCheckpoint, match="alignment"):
        gguf_header.read(path)


def test_a_vocabulary_that_never_ends_is_cut_off_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_header, "LARGEST_METADATA", 1 << 10)
    path = tmp_path / "model.gguf"
    path.write_bytes(header(keys=1) + text(b"k") + struct.pack("<IIQ", 9, 8, 500) + text(b"word") * 500)
    with pytest.raises(DamagedCheckpoint, match="takes more than"):
        gguf_header.read(path)


@fuzzed
@given(position=st.integers(0, 700), byte=st.integers(0, 255))
def test_a_flipped_byte(tmp_path: Path, position: int, byte: int) -> None:
    path = tmp_path / "model.gguf"
    if not path.exists():
        small(path)
    data = bytearray(path.read_bytes())
    data[position] = byte
    (tmp_path / "flipped.gguf").write_bytes(data)
    agrees_with_the_package(tmp_path / "flipped.gguf")


@fuzzed
@given(data=st.binary(max_size=200), keys=st.integers(0, 3), tensors=st.integers(0, 3))
def test_noise(tmp_path: Path, data: bytes, keys: int, tensors: int) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header(keys=keys, tensors=tensors) + data)
    agrees_with_the_package(path)
