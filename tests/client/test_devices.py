"""Devices as their owners use them: real processes that claim, measure and die, against the real service."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from client.api import Lathe
from client.commands.profiles import advice
from client.device_types import NewDevice, Profile
from client.devices import runner
from client.devices.lease import refuses
from client.errors import BrokenTransfer, ClientError, NoDevice, Problem, Unreachable, WaitedTooLong
from compression.schema.device_table import DeviceTable
from compression.schema.profile import ProfileFailure, ProfileRequest
from compression.schema.profile_remedies import ProfileRemedy
from compression.schema.report.measurements import Remedy
from tests.app.api.conftest import add_artifact, add_artifact_of
from tests.app.api.test_device_tables import TABLE, store as store_table
from tests.client.conftest import Command, Live, document
from tests.client.halves import HALVES
from tests.client.measuring_child import CRASHED, KILLED, REFUSED, SLOW, UNFIT
from tests.client.test_cli import succeed
from tests.conftest import ROOT, wait_for
from tests.support import profiled
from tests.support.saying import says

CHILD = (sys.executable, "-m", "tests.client.measuring_child")
FACTS = {"name": "distilled-onnx-int8", "kind": "onnx", "stage": "distilled", "precision": "int8", "opens_with": "x"}
FACTS |= {"score": {"not_measured": "no test"}}
LOOP = f"""
import sys
from client.api import Lathe
from client.devices.runner import Runner
with Lathe.from_config() as lathe:
    Runner(lathe, lathe.devices()[0].id, print, {CHILD!r}).run()
"""
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def owner(live: Live) -> Iterator[Lathe]:
    with Lathe.from_config() as made:
        yield made


@pytest.fixture
def artifact(live: Live, job: str) -> str:
    live.end(job, succeed)
    return add_artifact(live.service, job, "model.onnx", b"weights", FACTS)


@pytest.fixture
def device(owner: Lathe) -> NewDevice:
    return owner.register_device(f"my pi {secrets.token_hex(4)}")


@pytest.fixture
def start(live: Live, device: NewDevice, tmp_path: Path) -> Iterator[Start]:
    """Starts the device's loop as a process of its own."""
    with ExitStack() as ends:

        def run(*command: str) -> subprocess.Popen[bytes]:
            env = {**os.environ, "LATHE_HOME": str(tmp_path), "LATHE_URL": live.service.url, "LATHE_KEY": device.key}
            out = ends.enter_context((tmp_path / "loop.log").open("ab"))
            process = subprocess.Popen(command or (sys.executable, "-c", LOOP), cwd=ROOT, env=env, stdout=out, stderr=out)
            ends.callback(process.wait)
            ends.callback(process.kill)
            return process

        yield run


def test_device_tables_are_listed_and_shown(live: Live, command: Command) -> None:
    assert "No device tables" in command("device", "table").out
    store_table(live.service, "dtb_cli")
    (listed,) = document(command("device", "table", "--json"))
    assert (listed["id"], listed["processor"], listed["rows"]) == ("dtb_cli", "Made 1", len(TABLE.rows))
    assert "dtb_cli" in command("device", "table").out
    assert DeviceTable.model_validate(document(command("device", "table", "dtb_cli", "--json"))) == TABLE
    says(command("device", "table", "dtb_cli").out, "attention", "dynamic-int8", "openvino")


def state(owner: Lathe, profile: Profile, wanted: str) -> Profile:
    """Wait until a profile has a state."""
    return wait_for(lambda: found if (found := owner.profile(profile.id)).state == wanted else None)  # type: ignore[no-any-return]


def slow_child(of: subprocess.Popen[bytes]) -> psutil.Process:
    """The process that measures, once it has begun."""

    def begun() -> psutil.Process | None:
        return next((one for one in psutil.Process(of.pid).children(recursive=True) if one.name() == "slowly"), None)

    found: psutil.Process = wait_for(begun)
    return found


def test_a_device_measures_what_is_asked_and_says_what_it_cannot(
    owner: Lathe, device: NewDevice, artifact: str, start: Start
) -> None:
    start()
    asked = {batch: owner.request_profile(artifact, device.name, batch=batch) for batch in (1, KILLED, CRASHED, UNFIT, REFUSED)}
    done = {batch: owner.wait_for_profile(one.id, timeout=120) for batch, one in asked.items()}
    good = done.pop(1)
    assert good.result is not None
    assert good.figures is not None
    assert (good.state, good.result.request.batch, good.figures.median_ms, good.error) == ("done", 1, 2.0, None)
    codes = {batch: one.error.code for batch, one in done.items() if one.error}
    assert codes == {KILLED: "out_of_memory", CRASHED: "failed", UNFIT: "unsupported", REFUSED: "failed"}
    assert "the runtime is broken" in done[CRASHED].error.detail  # type: ignore[union-attr]
    assert "threads 1 was asked for, and 7 measured" in done[REFUSED].error.detail  # type: ignore[union-attr]
    assert [one.id for one in owner.profiles(device=device.id)] == [one.id for one in asked.values()][::-1]


def test_a_device_that_is_killed_loses_nothing_and_makes_one_row(
    live: Live, owner: Lathe, device: NewDevice, artifact: str, start: Start
) -> None:
    live.service.start_workers("keeper")
    try:
        asked = owner.request_profile(artifact, device.id, batch=SLOW)
        for attempt in (1, 2):
            process = start()
            assert state(owner, asked, "running").attempt == attempt
            child = slow_child(process)
            process.send_signal(signal.SIGKILL)
            process.wait()
            child.kill()  # what the profiler itself does when its parent dies
            if attempt == 1:
                state(owner, asked, "queued")
        lost = owner.wait_for_profile(asked.id, timeout=120)
        assert lost.error is not None
        assert (lost.state, lost.error.code) == ("failed", "device_lost")
        start()
        other = owner.request_profile(artifact, device.id)
        assert owner.wait_for_profile(other.id, timeout=120).state == "done"
        assert [one.id for one in owner.profiles(device=device.id)] == [other.id, asked.id]
    finally:
        live.service.kill("keeper")


def test_a_device_that_is_stopped_hands_its_profile_back(owner: Lathe, device: NewDevice, artifact: str, start: Start) -> None:
    asked = owner.request_profile(artifact, device.id, batch=SLOW)
    process = start()
    child = slow_child(process)
    process.terminate()
    assert process.wait(60) == 0
    assert not child.is_running()
    found = owner.profile(asked.id)
    assert (found.state, found.attempt) == ("queued", 0)
    idle = start()
    owner.delete(f"devices/{device.id}")  # the profile fails, and the loop ends by its refused key
    assert owner.profile(asked.id).state == "failed"
    assert idle.wait(60) != 0


def test_a_loop_that_waits_ends_at_once(owner: Lathe, device: NewDevice, start: Start) -> None:
    process = start(sys.executable, "-m", "client", "device", "run")
    wait_for(lambda: owner.devices()[0].last_heard)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0  # far from the seconds that a claim is held back


@pytest.mark.parametrize("away", [BrokenTransfer("The download kept breaking off."), Unreachable("No answer came.")])
def test_a_profile_whose_files_the_service_cannot_give_now_goes_back(
    away: ClientError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Exception] = [*[away] * (runner.HAND_BACKS + 1), OSError(28, "No space left on device")]
    monkeypatch.setattr(runner, "AGAIN", 0.0)

    def download(*_: object, **__: object) -> Path:
        raise raised.pop(0)

    monkeypatch.setattr(runner, "download", download)
    loop = runner.Runner(cast(Any, None), "dev_1", print)
    claim = cast(Any, SimpleNamespace(artifact=None, profile="prf_1"))
    found = [loop._outcome(claim, tmp_path, lambda: False) for _ in range(runner.HAND_BACKS + 2)]
    assert not any(found[: runner.HAND_BACKS])
    lasting, full = found[runner.HAND_BACKS :]
    assert isinstance(lasting, ProfileFailure)
    assert away.cause in lasting.detail
    assert isinstance(full, ProfileFailure)
    assert "No space left" in full.detail


def test_a_device_leaves_a_profile_that_is_gone(owner: Lathe, device: NewDevice, artifact: str, start: Start) -> None:
    asked = owner.request_profile(artifact, device.id, batch=SLOW)
    process = start()
    child = slow_child(process)
    owner.delete(f"jobs/{asked.job}")
    wait_for(lambda: not child.is_running())
    assert process.poll() is None
    process.terminate()
    assert process.wait(60) == 0


@pytest.mark.parametrize("half", HALVES)
def test_both_clients_ask_for_profiles(half: str, live: Live, device: NewDevice, artifact: str) -> None:
    with HALVES[half](live.service.url, live.service.database.key) as lathe:
        asked = lathe.request_profile(artifact, device.id, length=64)
        assert asked.request.length == 64
        assert [one.id for one in lathe.profiles(job=asked.job)] == [asked.id]
        with pytest.raises(WaitedTooLong):
            lathe.wait_for_profile(asked.id, timeout=0.1)
        with pytest.raises(Problem) as refused:
            lathe.request_profile(artifact, "nowhere")
        assert refused.value.param == "device"


def test_the_commands_go_from_a_device_to_its_figures(
    live: Live, command: Command, artifact: str, start: Start, owner: Lathe, device: NewDevice
) -> None:
    made = document(command("device", "register", f"box-{artifact}", "--json"))
    says(command("device", "ls").out, made["name"], device.name, "never")
    assert command("device", "rm", made["name"]).code == 0
    assert made["id"] not in command("device", "ls").out
    never = owner.request_profile(artifact, device.name)
    assert command("profiles", never.id, "--cancel").code == 0
    assert document(command("profiles", never.id, "--json"))["error"]["code"] == "not_found"
    assert command("profiles", "--cancel").code == 2
    for option in (("--job", "job_1"), ("--device", "pi"), ("--limit", "2")):
        assert command("profiles", never.id, *option).code == 2  # they are of lists
    start()
    job = owner.request_profile(artifact, device.id).job
    ran = command("profile", job, "--device", device.name, "--seconds", "1", "--timeout", "120")
    assert ran.code == 0
    says(ran.out, device.name, "done", "2 ms (p95 2.5)", "500", "120.00 MB", "onnxruntime 1.32.0")
    says(
        ran.out, "float_products: 100% of the time goes to products in floating point: 1 MatMul (slowest: /dense).", "attention"
    )
    crashed = command("profile", artifact, "--device", device.name, "--batch", str(CRASHED))
    says(crashed.out, f"next: lathe profile {artifact} --device '{device.name}' --batch {CRASHED} --seconds 10 --threads 1")
    failed = command("profile", artifact, "--device", device.name, "--batch", str(UNFIT))
    assert failed.code == 1
    says(failed.out, "failed: unsupported", "unsupported: no LSTM", "Take another format.")
    listed = document(command("profiles", "--device", device.name, "--json"))
    assert [one["state"] for one in listed] == ["failed", "failed", "done", "done"]
    says(command("profiles", "--device", device.name).out, f"What to try: lathe profiles {listed[0]['id']}")
    says(command("profiles", listed[2]["id"]).out, "done", "float_products: 100%")
    assert command("profiles", listed[2]["id"], "--cancel").code == 2  # it is done
    assert owner.profile(listed[2]["id"]).state == "done"
    waits = document(command("profile", artifact, "--device", device.name, "--batch", str(SLOW), "--detach", "--json"))
    assert waits[0]["state"] == "queued"
    known = command("device", "ls")
    says(known.out, "a CPU, 4 cores")


def test_a_limit_ends_no_device_and_loses_no_lease() -> None:
    answers = {status: Problem("c", status=status, code="x", remedy="r") for status in (401, 404, 422, 429, 500, 503)}
    assert [status for status, answer in answers.items() if refuses(answer)] == [401, 404, 422]
    assert not refuses(Unreachable("c"))


def test_only_commands_that_work_now_are_named(live: Live, job: str, owner: Lathe) -> None:
    artifact = add_artifact(live.service, job, "model.onnx", b"weights", FACTS)
    why = {"cause": "It is slow.", "remedy": "Mend it."}
    change = Remedy(key="recipe.quantize", now=None, proposed={}, why="It is slow.")
    remedies = (
        ProfileRemedy(code="float_products", change=change, **why),
        ProfileRemedy(code="unfused_operators", artifact=artifact, **why),
        ProfileRemedy(code="faster_form", artifact=artifact, **why),
    )
    made = {"id": "prf_1", "job": job, "artifact": "art_1", "device": "dev_1", "device_name": "my pi", "state": "done"}
    profile = Profile(**made, request=ProfileRequest(length=64, seconds=60), remedies=remedies)
    named = [
        f"lathe profile {artifact} --device 'my pi' --batch 1 --length 64 --seconds 60 --threads 1",
        f"lathe download {job} --stage distilled --kind onnx",
    ]
    assert [line for line in advice(owner, profile) if "next" in line] == [f"  next: {command}" for command in named]
    live.end(job, succeed)
    assert f"  next: lathe retry {job} --profile prf_1 --apply recipe.quantize" in advice(owner, profile)


def test_another_key_runs_no_device(command: Command, live: Live) -> None:
    ran = command("device", "run", "--json")
    assert ran.code == NoDevice.exit_code
    assert document(ran)["error"]["code"] == "no_device"


def test_the_command_measures_a_real_artifact(
    live: Live, owner: Lathe, device: NewDevice, job: str, start: Start, tmp_path: Path
) -> None:
    live.end(job, succeed)
    folder = profiled.artifact(tmp_path / "artifact")
    made = add_artifact_of(live.service, job, {file.name: file.read_bytes() for file in folder.iterdir()}, FACTS)
    asked = owner.request_profile(made, device.name, length=8, seconds=0.2, batch=2)
    longer = owner.request_profile(made, device.name, length=profiled.LONGEST + 1, seconds=0.2)
    process = start(sys.executable, "-m", "client", "device", "run")
    found = owner.wait_for_profile(asked.id, timeout=300)
    assert found.result is not None, found.error
    assert (found.result.request, found.result.runtime.split()[0]) == (asked.request, "onnxruntime")
    assert len(found.result.latency.samples_ms) >= 3
    assert owner.devices()[0].facts == found.result.device
    refused = owner.wait_for_profile(longer.id, timeout=300)
    assert refused.error is not None
    assert (refused.state, refused.error.code) == ("failed", "unsupported")
    process.terminate()
    assert process.wait(60) == 0
