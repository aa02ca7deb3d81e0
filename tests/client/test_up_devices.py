"""Over which devices `lathe up` spreads its workers, and which it refuses."""

from pathlib import Path

import pytest

from client.cli import main
from client.embedded import up
from client.embedded.up import Plan, check_device, device_of, environment, python_parts
from client.embedded.worker_settings import WorkerSettings, read_settings
from client.errors import CannotStart
from tests.support.nvidia import install


def test_workers_go_round_the_cards() -> None:
    assert [device_of("auto", worker, 2) for worker in range(3)] == ["auto:0", "auto:1", "cpu"]
    assert [device_of("auto", worker, 0) for worker in range(2)] == ["auto", "auto"]
    assert [device_of("cpu", worker, 2) for worker in range(2)] == ["cpu", "cpu"]
    assert [device_of("cuda:1", worker, 2) for worker in range(2)] == ["cuda:1", "cuda:1"]


def test_a_card_that_is_not_there_is_refused_before_anything_starts() -> None:
    for fine in ("cpu", "auto", "auto:7", "cuda:1"):
        check_device(fine, 2)
    with pytest.raises(CannotStart, match="device_absent: cuda:2 is not there: this machine has 2 cards"):
        check_device("cuda:2", 2)
    with pytest.raises(CannotStart, match="--device gpu: it is cpu, cuda:N, cuda:N,N, auto or auto:N"):
        check_device("gpu", 2)


def test_workers_share_no_card_that_is_named() -> None:
    for fine in ("cpu", "auto"):
        check_device(fine, 2, 3)
    with pytest.raises(CannotStart, match="2 workers cannot share cuda:1"):
        check_device("cuda:1", 2, 2)


def test_the_device_is_of_the_option_or_the_environment_or_the_home_s_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def check(wanted: str, *_: object) -> None:
        found.append(wanted)
        raise CannotStart("far enough", remedy="none")

    def start(*options: str) -> str:
        with pytest.raises(SystemExit):
            main(["up", "--home", str(tmp_path), "--port", "0", *options])
        return found.pop()

    monkeypatch.delenv("LATHE_DEVICE", raising=False)
    monkeypatch.setattr(up, "check_device", check)
    assert start() == "auto"
    (tmp_path / ".env").write_text("LATHE_DEVICE=cuda:3\n")
    assert start() == "cuda:3"
    monkeypatch.setenv("LATHE_DEVICE", "cuda:2")
    assert start() == "cuda:2"
    assert start("--device", "cpu") == "cpu"


def test_a_device_that_the_env_file_names_reaches_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATHE_DEVICE", raising=False)
    (tmp_path / ".env").write_text("LATHE_DEVICE=cpu\n")
    plan = Plan(tmp_path, "127.0.0.1", 1, "sqlite://", None, 1)
    env = environment(plan, "")
    (_, (worker, *_), _) = python_parts(plan, read_settings(tmp_path, env), env, tmp_path)
    assert worker.command[-2:] == ["--device", "cpu"]


def test_each_worker_is_told_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(up.list_cards, "__defaults__", (install(tmp_path), None))
    plan = Plan(tmp_path, "127.0.0.1", 1, "sqlite://", None, 3)
    own = WorkerSettings("auto", None, 1.0)
    parts = {part.name: part for group in python_parts(plan, own, {}, tmp_path) for part in group}
    told = {name: part.command[-2:] for name, part in parts.items()}
    assert [told[f"jobs-{number}"] for number in (1, 2, 3)] == [["--device", name] for name in ("auto:0", "auto:1", "cpu")]
    assert told["checks"][-1] == "checks"
    shares = {name: part.environment.get("LATHE_HOST_WORKERS") for name, part in parts.items()}
    assert shares == {**dict.fromkeys(("jobs-1", "jobs-2", "jobs-3"), "3"), "api": None, "checks": None, "keeper": None}
