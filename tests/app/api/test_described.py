"""Described devices over HTTP: their table, and what a forecast says of a latency target that nobody can measure."""

import httpx

from compression.schema.described_devices import described_devices
from tests.app.api.conftest import Json


def test_described_devices_are_listed_with_their_sources(http: httpx.Client) -> None:
    found = {one["name"]: one for one in http.get("/v1/described-devices").json()["items"]}
    assert list(found) == list(described_devices())
    assert all(one["source"] for one in found.values())
    assert found["a100-80gb"]["bandwidth"] == 2.039e12
    assert found["raspberry-pi-5"]["int8_ops"] is None


def test_a_forecast_bounds_a_latency_by_a_data_sheet_and_a_registered_device_is_not_described(
    http: httpx.Client, request_body: Json
) -> None:
    def warned(device: str) -> str:
        body = {**request_body, "targets": {"latency_ms": {"value": 1e-6, "device": device}}}
        answer = http.post("/v1/jobs?validate_only=true", json=body)
        assert answer.status_code == 200, answer.text
        return " ".join(answer.json()["warnings"])

    assert "at best" in warned("jetson-agx-orin")
    assert "never measured" in warned("jetson-agx-orin")
    assert "less than its data sheet allows" in warned("H100-SXM")
    assert "No device bench is registered" in warned("bench")
    assert http.post("/v1/devices", json={"name": "bench"}).status_code == 201
    assert "bench, which measures nothing in this job: put it into evaluate.devices" in warned("bench")
    body = {**request_body, "evaluate": {"devices": ["bench"]}, "targets": {"latency_ms": {"value": 1, "device": "bench"}}}
    assert "bench" not in " ".join(http.post("/v1/jobs?validate_only=true", json=body).json()["warnings"])
