"""The bench of `lathe serve` measures what has no record, and its percentiles count rows that were not answered."""

import asyncio
import json
import math
from pathlib import Path

import pytest

from bench.serve import __main__ as serve
from bench.serve.load import Connections, Load
from tests.support.image_jobs import onnx_folder
from tests.support.network_graphs import resnet


def test_rows_without_an_answer_are_the_latest() -> None:
    took = [0.001 * number for number in range(1, 101)]
    assert Load.of(took, 0, 2.0) == Load(50.0, pytest.approx(51.0), pytest.approx(100.0))
    assert Load.of(took, 1, 2.0).p99_ms == pytest.approx(100.0)
    assert Load.of(took, 3, 2.0).p99_ms == math.inf
    assert Load.of([], 0, 2.0) == Load(0.0, math.inf, math.inf)


def test_what_has_a_record_is_not_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = onnx_folder(resnet(), tmp_path / "small")
    (folder / "before.json").write_text(json.dumps({"task": "image-classification", "artifact": "baseline-onnx-float32"}))
    command = [str(folder), "--records", str(tmp_path / "records"), "--over", "process", "--seconds", "0.05", "--repeats", "1"]
    command += ["--steps", "1", "--max-batch", "4"]
    serve.main(command)
    made = {path.name: path.read_bytes() for path in (tmp_path / "records").rglob("*.json")}
    assert sorted(made) == ["process-0-1-0.json", "process-0-4-0.json", "target-0.json"]
    record = json.loads(made["process-0-4-0.json"])
    assert sorted(record["closed"]) == ["1", "32", "8"]
    assert all(load["rate"] > 0 for load in record["closed"].values())
    said = capsys.readouterr().out
    assert "process, 0 tokens, 99 % within" in said
    assert "  32 clients: " in said

    (next((tmp_path / "records").rglob("process-0-4-0.json"))).write_text(json.dumps({**record, "runtime": "kept"}))
    serve.main(command)
    assert json.loads(next((tmp_path / "records").rglob("process-0-4-0.json")).read_text())["runtime"] == "kept"
    assert capsys.readouterr().out == said


async def asked_of_a_server_that_hangs_up(times: int) -> int:
    """Ask so many times, with a pause after each, of a server that closes each connection behind its answer -> connections."""
    opened = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        connections = Connections(server.sockets[0].getsockname()[1], "/v1/predict", {"text": "a"})
        for _ in range(times):
            await connections.ask()
            await asyncio.wait_for(connections.idle[-1][0].read(), 10)  # until the server's end is seen
        connections.close()
    return opened


def test_a_connection_that_the_server_closed_is_opened_again() -> None:
    assert asyncio.run(asked_of_a_server_that_hangs_up(3)) == 3
