"""A folder or a file is there whole, or what was there before is."""

import shutil
from pathlib import Path

import pytest

from compression.system import durable_files


def test_a_folder_appears_whole_in_place_of_the_one_before(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with durable_files.folder(place) as beside:
        (beside / "old").write_text("1")
        assert not place.exists()
    with durable_files.folder(place) as beside:
        (beside / "new").write_text("2")
        assert (place / "old").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["place", "new"]


def test_what_is_replaced_goes_last_and_comes_back_if_the_new_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, rename, remove = tmp_path / "place", Path.rename, shutil.rmtree
    for name in ("old", "new"):
        with durable_files.folder(place) as beside:
            (beside / name).write_text("1")
            # As long as anything of the old one is being removed, the new one is there.
            monkeypatch.setattr(shutil, "rmtree", lambda gone, **how: (place / "new").exists() and remove(gone, **how))
    monkeypatch.setattr(shutil, "rmtree", remove)

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError("made up")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="made up"), durable_files.folder(place) as beside:
        (beside / "newer").write_text("1")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "place"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    place, file = tmp_path / "place", tmp_path / "file"
    with durable_files.folder(place) as beside:
        (beside / "old").write_text("1")
    durable_files.write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        durable_files.write_text(file, "half \ud800")
    with pytest.raises(OSError, match="made up"), durable_files.folder(place) as beside:
        (beside / "half").write_text("2")
        raise OSError("made up")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "old", "place"]
    assert file.read_text() == "old"
