"""A row in which nothing was measured."""

from compression.schema.report.measurements import NotMeasured, Parameters, Row, Shape, Size
from compression.schema.report.ratios import ratios
from compression.schema.stages import Stage


def unmeasured(stage: Stage = "baseline", **changes: object) -> Row:
    nothing = NotMeasured(not_measured="a test")
    parameters, size = Parameters(total=10, embedding=4, other=6), Size(bytes=40, dtype="float32", bytes_at_16_bit=20)
    same = (parameters, size, nothing)
    row = Row(
        stage=stage,
        artifact="a",
        shape=Shape(layers=1, hidden=2, heads=1, ffn=4, vocabulary=5),
        parameters=parameters,
        size=size,
        latency=nothing,
        score=nothing,
        flops=nothing,
        peak_memory_bytes=nothing,
        ratios=ratios(same, same, nothing),
        seconds=1.0,
    )
    return row.model_copy(update=changes)
