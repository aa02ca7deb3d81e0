"""Device tables over HTTP: listed without their times, and whole as the file that the engine's command writes."""

import json

import httpx

from compression.schema.device_table import VERSION, DeviceTable
from tests.app.api.conftest import MOMENT, insert, new_team, problem
from tests.conftest import Service
from tests.support.device_tables import HERE, made_table

TABLE = made_table()


def store(service: Service, name: str, content: str = TABLE.model_dump_json()) -> str:
    """Store a table as a worker does."""
    facts = HERE.model_dump(mode="json") | {"rows": len(TABLE.rows), "exclusive": True}
    known = {"digest": name.ljust(64, "0"), "processor": HERE.processor, "threads": 1, "measured_at": MOMENT}
    insert(service, "device_tables", id=name, content=content, facts=json.dumps(facts), worker="wkr_1", **known)
    return name


def test_every_team_reads_the_tables(service: Service, http: httpx.Client) -> None:
    store(service, "dtb_read")
    listed = next(one for one in http.get("/v1/device-tables").json()["items"] if one["id"] == "dtb_read")
    assert (listed["processor"], listed["threads"], listed["rows"], listed["worker"]) == ("Made 1", 1, len(TABLE.rows), "wkr_1")
    assert listed["runtimes"] == HERE.runtimes
    with service.client(new_team(service)) as stranger:
        assert DeviceTable.model_validate_json(stranger.get("/v1/device-tables/dtb_read").content) == TABLE
    problem(http.get("/v1/device-tables/dtb_none"), 404, "not_found")


def test_a_table_of_another_version_is_passed_over(service: Service, http: httpx.Client) -> None:
    store(service, "dtb_older", json.dumps(TABLE.model_dump(mode="json") | {"version": VERSION - 1}))
    assert "dtb_older" not in {one["id"] for one in http.get("/v1/device-tables").json()["items"]}
    problem(http.get("/v1/device-tables/dtb_older"), 404, "not_found")
