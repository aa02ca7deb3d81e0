"""Where a job's device table comes from: a file of this machine, or a child that measures it."""

from collections.abc import Generator
from pathlib import Path

import pytest

from compression.engine import device_table as engine
from compression.export.device_table import command
from compression.export.device_table.measuring import conditions
from compression.schema.device_table import DeviceTable
from compression.schema.events import DeviceTableMeasured, Event, Log
from compression.schema.job_spec import Data, Spec
from compression.system.child_process import ChildFailed
from tests.support.device_tables import HERE, made_table


def spec(*tables: str, **given: object) -> Spec:
    data = Data(format="jsonl", splits={"train": ("a.jsonl",)})
    return Spec(model="m", data=data, output="out", **{"device_tables": tables, **given})


def found(asked: Spec, base: Path) -> tuple[list[Event], DeviceTable | None]:
    def ended() -> Generator[Event, None, None]:
        nonlocal table
        table = yield from engine.device_table(asked, base, 1, lambda: None)

    table: DeviceTable | None = None
    return list(ended()), table


def test_a_file_of_this_machine_is_read_and_others_are_passed_over(tmp_path: Path) -> None:
    ours = made_table(conditions=conditions(1))
    (tmp_path / "0.json").write_text(made_table(conditions=HERE).model_dump_json())
    (tmp_path / "1.json").write_text("{")
    (tmp_path / "2.json").write_text(ours.model_dump_json())
    assert found(spec("0.json", "1.json", "none.json", "2.json"), tmp_path) == ([], ours)
    assert found(spec(device_tables=None), tmp_path) == ([], None)


def test_a_table_that_is_missing_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "TableRequest", lambda threads: command.TableRequest(threads=threads, quick=True))
    (said, event), table = found(spec(), tmp_path)
    assert isinstance(said, Log)
    assert isinstance(event, DeviceTableMeasured)
    assert event.table == table
    assert table is not None
    assert table.conditions == conditions(1)
    assert found(spec(), tmp_path) == ([], table)  # as of a job's second dataset


def test_a_machine_that_cannot_measure_goes_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ChildFailed("no runtime")

    monkeypatch.setattr(engine, "child_lines", fails)
    (_, said), table = found(spec(), tmp_path)
    assert table is None
    assert isinstance(said, Log)
    assert said.level == "warning"
    assert "no runtime" in said.message
