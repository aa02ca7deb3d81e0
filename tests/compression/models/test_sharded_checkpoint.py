"""Checkpoints in pieces: what is written opens with the stock reader, and what is read is what is there."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compression.models.sharded_checkpoint import TYPES, PlannedTensor, SafetensorsReader, writing
from compression.schema.errors import DamagedCheckpoint, MissingFile
from tests.support.decoder_models import saved, tiny


def test_rows_of_shards_make_the_tensors_of_the_file(tmp_path: Path) -> None:
    model = tiny("llama").to(torch.bfloat16)
    checkpoint = SafetensorsReader(saved(model, tmp_path))
    assert len({checkpoint.file(name) for name in checkpoint.names()}) > 2
    state = model.state_dict()
    assert set(checkpoint.names()) == set(state)
    for name in checkpoint.names():
        pieces = list(checkpoint.rows(name, block=200))
        assert torch.cat(pieces).equal(state[name])
        assert checkpoint.tensor(name).equal(state[name])
        assert all(piece.numel() * 2 <= 200 or len(piece) == 1 for piece in pieces)
        assert len(pieces) > 1 or state[name].numel() * 2 <= 200


def test_every_type_and_every_shape_is_read_and_written(tmp_path: Path) -> None:
    signed = [dtype for dtype in TYPES.values() if dtype not in (torch.uint16, torch.uint32, torch.uint64)]
    whole = {str(dtype): (torch.arange(24) % 3).to(dtype).reshape(2, 3, 4) for dtype in signed}
    whole |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 4), "odd": torch.ones(3, dtype=torch.int8)}
    plan = [[PlannedTensor(name, value.dtype, tuple(value.shape))] for name, value in whole.items()]
    with writing(tmp_path / "made", plan) as shards:
        for name, value in whole.items():
            for rows in value.split(1) if value.ndim and len(value) else [value]:
                shards.put(name, rows)
    found = load_file(tmp_path / "made" / "model.safetensors")
    checkpoint = SafetensorsReader(tmp_path / "made")
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        bits = value.reshape(-1).view(torch.uint8)
        for other in (found[name], checkpoint.tensor(name), *checkpoint.rows(name)):
            assert (other.dtype, other.shape) == (value.dtype, value.shape)
            assert other.reshape(-1).view(torch.uint8).equal(bits)


def test_groups_stay_together_in_files_of_a_size_and_the_index_names_them(tmp_path: Path) -> None:
    groups = [[PlannedTensor(f"{number}.{part}", torch.float32, (10,)) for part in "ab"] for number in range(5)]
    with writing(tmp_path / "made", groups, largest=170, metadata={"more": "said"}) as shards:
        for group in groups:
            for tensor in group:
                shards.put(tensor.name, torch.full((10,), float(tensor.name[0])))
    index = json.loads((tmp_path / "made" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 400
    files = {name: index["weight_map"][name] for group in groups for name in (group[0].name, group[1].name)}
    assert files["0.a"] == files["1.b"] == "model-00001-of-00003.safetensors"
    assert files["4.a"] == files["4.b"] == "model-00003-of-00003.safetensors"
    checkpoint = SafetensorsReader(tmp_path / "made")
    assert {name: checkpoint.file(name) for name in checkpoint.names()} == files
    assert checkpoint.tensor("3.b").equal(torch.full((10,), 3.0))


@pytest.mark.parametrize("given", [[3, 3], [3], []])
def test_a_tensor_that_gets_more_or_less_than_planned_leaves_what_was_there(tmp_path: Path, given: list[int]) -> None:
    place = tmp_path / "made"
    place.mkdir()
    (place / "before").touch()
    planned = [[PlannedTensor("weight", torch.float32, (5, 2))]]
    with pytest.raises(RuntimeError, match="weight"), writing(place, planned) as shards:
        for rows in given:
            shards.put("weight", torch.ones(rows, 2))
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "before"]


def test_weights_that_are_not_whole_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        SafetensorsReader(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(4, 4)}, path)
    checkpoint = SafetensorsReader(tmp_path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DamagedCheckpoint, match="shorter"):
        checkpoint.tensor("weight")
    with pytest.raises(DamagedCheckpoint):
        SafetensorsReader(tmp_path)
