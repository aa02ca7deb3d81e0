"""A folder or a file is there whole, or what was there before is."""

from pathlib import Path

import pytest

from compression import durable


def test_a_folder_appears_whole_in_place_of_the_one_before(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with durable.folder(place) as beside:
        (beside / "old").write_text("1")
        assert not place.exists()
    with durable.folder(place) as beside:
        (beside / "new").write_text("2")
        assert (place / "old").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["place", "new"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    place, file = tmp_path / "place", tmp_path / "file"
    with durable.folder(place) as beside:
        (beside / "old").write_text("1")
    durable.write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        durable.write_text(file, "half \ud800")
    with pytest.raises(OSError, match="made up"), durable.folder(place) as beside:
        (beside / "half").write_text("2")
        raise OSError("made up")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "old", "place"]
    assert file.read_text() == "old"
