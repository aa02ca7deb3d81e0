"""Whatever bytes a file holds, the answer is a list of tensors that fill it, or an error with a code."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from compression.models.files.safetensors_header import WIDTHS, read_header, read_weights
from compression.schema.errors import CompressionError, DamagedCheckpoint, UnsafeCheckpoint

fuzzed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
numbers = st.integers(-2, 40) | st.sampled_from([2**31, 2**63, 2**64, 10**30]) | st.booleans() | st.floats() | st.none()
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*WIDTHS, "Q4", ""]) | st.none() | st.integers(),
        "shape": st.lists(numbers, max_size=10) | numbers,
        "data_offsets": st.lists(numbers, max_size=3) | numbers,
        "more": st.none(),
    },
)
headers = st.dictionaries(st.text(max_size=8), entries | st.none() | st.integers(), max_size=4)


def agrees_with_the_library(path: Path) -> None:
    """What we let pass, the stock reader takes as well, with the same names; what we refuse is refused with a code."""
    try:
        tensors = read_header(path)
    except (DamagedCheckpoint, UnsafeCheckpoint):
        return
    assert sum(tensor.end - tensor.start for tensor in tensors) == path.stat().st_size - min(t.start for t in tensors)
    try:
        with safe_open(path, "np") as file:
            assert set(file.keys()) == {tensor.name for tensor in tensors}
    except SafetensorError as problem:
        pytest.fail(f"passed, and yet unreadable: {problem}")


@fuzzed
@given(headers=headers, data=st.binary(max_size=64))
def test_fuzzed_headers(tmp_path: Path, headers: dict[str, object], data: bytes) -> None:
    raw = json.dumps(headers).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    agrees_with_the_library(path)


@fuzzed
@given(
    shapes=st.lists(
        st.tuples(st.sampled_from(["F32", "F16", "I64", "U8"]), st.lists(st.integers(0, 3), max_size=3)), min_size=1, max_size=4
    ),
    shift=st.sampled_from([0, 0, 0, 1, -1]),
)
def test_well_formed_headers_pass_and_shifted_do_not(tmp_path: Path, shapes: list[tuple[str, list[int]]], shift: int) -> None:
    header, end = {}, 0
    for number, (dtype, shape) in enumerate(shapes):
        size = WIDTHS[dtype]
        for dimension in shape:
            size *= dimension
        header[f"t{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(max(end + shift, 0)))
    if shift and end + shift >= 0:
        with pytest.raises(DamagedCheckpoint):
            read_header(path)
    elif not shift:
        assert len(read_header(path)) == len(shapes)
        agrees_with_the_library(path)


@fuzzed
@given(data=st.binary(max_size=300))
def test_noise(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    agrees_with_the_library(path)


@fuzzed
@given(position=st.integers(0, 2000), byte=st.integers(0, 255))
def test_a_flipped_byte_in_a_real_header(encoder: Path, tmp_path: Path, position: int, byte: int) -> None:
    data = bytearray((encoder / "model.safetensors").read_bytes())
    data[position] = byte
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    agrees_with_the_library(path)


@fuzzed
@given(text=st.text(max_size=60) | st.sampled_from(['{"weight_map": {"a": 3}}', '{"weight_map": {"a": "/etc/passwd"}}', "{}"]))
def test_a_fuzzed_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    tensors, problems = read_weights(tmp_path)
    assert not tensors
    assert problems
    assert all(isinstance(problem, CompressionError) for problem in problems)


def test_files_that_are_none_of_the_model_s_are_refused_beside_one_file_as_beside_shards(tmp_path: Path) -> None:
    for name in ("model.safetensors", "adapter_model.safetensors"):
        save_file({"weight": np.zeros(4, np.float32)}, tmp_path / name)
    (tmp_path / "consolidated.safetensors").write_bytes(b"nobody looks into it")
    tensors, problems = read_weights(tmp_path)
    (problem,) = problems
    assert (problem.code, problem.param) == ("config_mismatch", "adapter_model.safetensors")
    assert "beside it lies 'adapter_model.safetensors', 'consolidated.safetensors'" in problem.cause
    assert "Leave out" in problem.remedy_text
    assert [tensor.file for tensor in tensors] == ["model.safetensors"]
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": "model-1.safetensors"}}))
    (sharded,) = read_weights(tmp_path)[1]
    assert (sharded.code, sharded.param) == (problem.code, problem.param)
    for name in ("adapter_model.safetensors", "consolidated.safetensors"):
        (tmp_path / name).unlink()
    assert not read_weights(tmp_path)[1]
