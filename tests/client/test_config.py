"""Where the service is and who asks: environment before file, and a file that only its owner reads."""

import os
import stat
from pathlib import Path

import pytest

from client import config
from client.config import Config
from client.errors import BadConfig, NoKey


def test_only_the_owner_can_read_the_saved_key_whatever_was_there_and_whatever_the_umask(home: Path) -> None:
    before = os.umask(0)
    try:
        path = config.save(Config("http://127.0.0.1:1", "lathe_a_b"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    path.chmod(0o644)
    config.save(Config("http://127.0.0.1:1", "lathe_a_b"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert config.load() == Config("http://127.0.0.1:1", "lathe_a_b")
    assert [file.name for file in home.iterdir()] == ["client.json"]


def test_the_environment_goes_before_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.save(Config("http://here", "lathe_file_key"))
    monkeypatch.setenv("LATHE_KEY", "lathe_env_key")
    assert config.load() == Config("http://here", "lathe_env_key")


def test_the_files_key_never_goes_to_another_service(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.save(Config("http://here", "lathe_file_key"))
    monkeypatch.setenv("LATHE_URL", "http://elsewhere/")
    assert config.load() == Config("http://elsewhere", None)
    monkeypatch.setenv("LATHE_URL", "http://here/")
    assert config.load().key == "lathe_file_key"


def test_without_a_key_the_error_says_what_to_do(home: Path) -> None:
    with pytest.raises(NoKey) as error:
        config.load().require_key()
    assert "lathe up" in error.value.remedy_text


@pytest.mark.parametrize("text", ["", "[]", '{"key": "x"}', '{"url": 5}', "\x00"])
def test_a_damaged_file_is_named(home: Path, text: str) -> None:
    home.mkdir()
    (home / "client.json").write_text(text)
    with pytest.raises(BadConfig, match=r"client\.json"):
        config.load()
