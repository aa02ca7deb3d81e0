"""Which files of a model's folder are sent."""

from pathlib import Path

import pytest

from client.errors import BadFolder
from client.transfers.folders import model_files


def names(folder: Path, *files: str) -> tuple[list[str], list[str]]:
    folder.mkdir()
    for name in files:
        (folder / name).write_bytes(b"")
    taken, left = model_files(folder)
    return [path.name for path in taken], [path.name for path in left]


def test_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    assert names(tmp_path / "a", "tiny.Q4_1.gguf", "pytorch_model.bin") == (["tiny.Q4_1.gguf"], ["pytorch_model.bin"])


def test_what_says_a_model_s_licence_goes_along(tmp_path: Path) -> None:
    terms = ["LICENSE", "NOTICE.txt", "README.md"]
    files = ["config.json", "model.safetensors"]
    assert names(tmp_path / "a", *files, *terms, "notes.md") == (sorted([*files, *terms]), ["notes.md"])


def test_beside_safetensors_a_gguf_file_stays_where_it_is(tmp_path: Path) -> None:
    files = ["config.json", "model.safetensors", "tokenizer.json"]
    assert names(tmp_path / "a", "tiny.gguf", *files) == (files, ["tiny.gguf"])


def test_of_several_gguf_files_somebody_must_say_which(tmp_path: Path) -> None:
    with pytest.raises(BadFolder, match="2 GGUF files"):
        names(tmp_path / "a", "tiny.Q4_1.gguf", "tiny.Q8_0.gguf")


def test_a_folder_without_weights_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadFolder, match="nothing of a model"):
        names(tmp_path / "a", "README.md")
