"""An engine that attacks the host and its neighbours: other jobs finish, and the host is clean afterwards."""

from pathlib import Path

from tests.conftest import wait_for
from tests.faults.conftest import PATIENCE, SHORT, SQLITE, Stand
from tests.faults.hostile_engine import NEIGHBOURS, TRICKS
from tests.faults.test_hostile import start_hostile

NARROW = {
    "LATHE_ENGINE_MEMORY_BYTES": str(800 << 20),
    "LATHE_ENGINE_PROCESSES": "16",  # so few that a crowd has no time to take the memory first
    "LATHE_MEASURE_HOLD_SECONDS": "1",
    "LATHE_STALL_SECONDS": "600",
}


def attack(stand: Stand, number: int) -> str:
    job = stand.job({**SHORT, "train": {"seed": len(TRICKS) + number}})
    stand.foretell(1)  # its limit of memory is below what an honest job of its kind is forecast to take
    return job


@SQLITE
def test_whatever_an_engine_does_to_its_host_others_finish_and_nothing_stays(stand: Stand, tmp_path: Path) -> None:
    scratch = stand.service.home / "scratch"
    hostile = start_hostile(stand, scratch, tmp_path, **NARROW)
    *ending, (_, _) = NEIGHBOURS
    tried = {trick.__name__: attack(stand, number) for number, (trick, _) in enumerate(ending)}
    found = {name: stand.over(job_id, "failed")["error"] for name, job_id in tried.items()}
    assert {name: error["code"] for name, error in found.items()} == {trick.__name__: code for trick, code in ending}
    assert all(error["cause"] and error["remedy"] for error in found.values())
    stand.nothing_runs()
    endless = attack(stand, len(ending))
    wait_for(lambda: list(scratch.glob("*/.measure.granted")), PATIENCE)
    stand.start_worker()
    (row,) = stand.over(stand.job(SHORT))["rows"]
    assert row["latency"]["exclusive"]
    assert stand.show(endless)["state"] == "running"
    stand.http.post(f"/v1/jobs/{endless}/cancel")
    stand.over(endless, "cancelled")
    stand.nothing_runs()
    assert not [path for path in scratch.iterdir() if path.is_dir() or path.name.endswith(".reserved")]
    assert hostile.poll() is None
