"""A row in which nothing was measured."""

from compression.schema.report.measurements import NotMeasured, Parameters, Row, Shape, Size
from compression.schema.report.ratios import ratios
from compression.schema.stages import Stage


def unmeasured(stage: Stage = "baseline", **changes: object) -> Row:
    nothing = NotMeasured(not_measured="a test")
    parameters, size = Parameters(total=10, embedding=4, other=6), Size(bytes=40, dtype="float32", bytes_at_16_bit=20)
    same = (parameters, size, nothing)
    shape = Shape(layers=1, hidden=2, heads=1, ffn=4, vocabulary=5)
    own = {"stage": stage, "artifact": "a", "shape": shape, "parameters": parameters, "size": size, "seconds": 1.0}
    unknown = dict.fromkeys(("latency", "score", "flops", "peak_memory_bytes"), nothing)
    row = Row(**own, **unknown, ratios=ratios(same, same, nothing))
    return row.model_copy(update=changes)
