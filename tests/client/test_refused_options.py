"""Options that would do nothing beside others, or of what is named, are refused before the service is asked."""

import os
from pathlib import Path

import pytest

from client import config
from tests.client.conftest import Command
from tests.conftest import free_port
from tests.support.saying import says

ARTIFACT = f"art_{'0' * 26}"
WAITING = "profile job_1 --device pi --detach"


@pytest.mark.parametrize(
    ("words", "option", "cause"),
    [
        ("serve . --kind openvino-int8", "--kind", "is a folder, which is served as it is: leave it out, or name a job"),
        ("serve . --kind onnx", "--kind", "is a folder"),
        ("serve . --out elsewhere", "--out", "is a folder"),
        (f"serve {ARTIFACT} --kind onnx", "--kind", "an artifact has one format: leave it out, or name the job"),
        ("share job_1 --list --days 3", "--days", "it is of a new link: leave it out, or --list and --revoke"),
        ("share job_1 --revoke shr_1 --days 7", "--days", "it is of a new link"),
        ("share job_1 --revoke shr_1 --list", "--list", "it lists, and ends no link: leave it out, or --revoke"),
        ("try job_1 good --split train", "--split", "it is of --row: add it, or leave this out"),
        ("try job_1 good --split test", "--split", "it is of --row"),
        ("audit --csv --json", "--csv", "--csv and --json are two forms of one list"),
        (f"{WAITING} --timeout 5", "--timeout", "it is of waiting: leave it out, or --detach"),
    ],
)
def test_an_option_without_effect_is_refused(
    command: Command, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, option: str, cause: str
) -> None:
    config.save(config.Config(f"http://127.0.0.1:{free_port()}", "lathe_a_b"))  # nobody answers there: that would be code 5
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execv", lambda *_: None)  # no server takes the place of the tests
    ran = command(*words.split())
    assert (ran.code, ran.out) == (2, "")
    says(" ".join(ran.err.split()), f"Invalid value for {option}", cause)


@pytest.mark.parametrize("words", ["share job_1 --list", "share job_1 --days 3", "try job_1 --row 3 --split train", WAITING])
def test_each_of_them_alone_is_taken(command: Command, home: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setattr("client.core.protocol.random.uniform", lambda *_: 0.0)
    config.save(config.Config(f"http://127.0.0.1:{free_port()}", "lathe_a_b"))
    assert command(*words.split()).code == 5  # it is the service that is missing
