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


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        (["tiny.Q4_1.gguf"], ["pytorch_model.bin"]),
        (["LICENSE", "NOTICE.txt", "README.md", "config.json", "model.safetensors"], ["notes.md"]),  # its licence goes along
        (["config.json", "model.safetensors", "tokenizer.json"], ["tiny.gguf"]),
    ],
)
def test_what_a_model_is_made_of_goes_and_the_rest_stays(tmp_path: Path, taken: list[str], left: list[str]) -> None:
    assert names(tmp_path / "a", *taken, *left) == (taken, left)


@pytest.mark.parametrize(
    ("files", "cause"), [(["tiny.Q4_1.gguf", "tiny.Q8_0.gguf"], "2 GGUF files"), (["README.md"], "nothing of a model")]
)
def test_what_is_not_one_model_is_refused(tmp_path: Path, files: list[str], cause: str) -> None:
    with pytest.raises(BadFolder, match=cause):
        names(tmp_path / "a", *files)
