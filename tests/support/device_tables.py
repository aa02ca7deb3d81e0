"""Made device tables: the time of a layer is that of a call and its work at a rate, so that predictions are known."""

import datetime as dt
from collections.abc import Callable, Iterator

from compression.export.device_table.plan import Layer, whole_plan
from compression.schema.device_table import OF_IMAGES, DeviceTable, Form, TableConditions, TableRow, TableRuntime

CALL = 20.0  #: microseconds
RATES = {"float32": 1000.0, "dynamic-int8": 2000.0, "static-int8": 3000.0}
"""Multiply-adds a microsecond."""
RUNTIMES: tuple[TableRuntime, ...] = ("onnxruntime", "openvino")
HERE = TableConditions(processor="Made 1", instructions="AVX2", threads=1, runtimes={"onnxruntime": "1", "openvino": "2"})


def by_work(layer: Layer, runtime: TableRuntime, form: Form) -> float:
    """Return a layer's microseconds beside the call: OpenVINO takes twice as long."""
    return layer.work / RATES[form] * (1 + (runtime == "openvino"))


def made_rows(time: Callable[[Layer, TableRuntime, Form], float] = by_work) -> Iterator[TableRow]:
    for layer in whole_plan():
        for runtime in RUNTIMES:
            for form in layer.forms(runtime):
                sizes = dict(zip(("operation", "inputs", "outputs", "places", "batch"), layer.key, strict=True))
                spent = CALL if layer.operation == "call" else time(layer, runtime, form)
                spent += 0.0 if layer.operation in ("call", *OF_IMAGES) else CALL
                yield TableRow(runtime=runtime, form=form, microseconds=spent, spread=0.0, **sizes)


def made_table(time: Callable[[Layer, TableRuntime, Form], float] = by_work, conditions: TableConditions = HERE) -> DeviceTable:
    """Return a table of the whole plan."""
    return DeviceTable(conditions=conditions, measured_at=dt.datetime(2026, 11, 29, tzinfo=dt.UTC), rows=tuple(made_rows(time)))
