"""What a worker learns of a real card before it registers."""

from compression.engine.commands import probe
from compression.schema.worker_device import ProbeSpec


def test_a_real_card_is_probed() -> None:
    found = probe.probe(ProbeSpec(kind="cuda"))
    assert {"float32", "float16"} <= set(found.dtypes)
    assert found.rates is not None
    assert found.rates.float32 > 1e11
    assert found.rates.bytes > 1e10
