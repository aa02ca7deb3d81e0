"""How fast a machine does each kind of a job's work: the reference machine, or one whose worker has measured it. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Speeds of a machine, in useful floating-point operations a second: 2 per parameter and token of a forward pass, 6 with
    the backward pass. Padding, attention and what is computed beside the products make them lower than a product's own.
    """

    float32: float  #: training and teachers in float32
    bfloat16: float  #: training in full precision, in bfloat16; the same as float32 where there is none
    simulated: float  #: training with fake quantization
    step_seconds: float  #: seconds of an optimizer step beside its products and bytes
    bytes: float  #: bytes a second that an optimizer reads and writes
    encoder: float  #: answers of an encoder in its runtime, on all cores
    decoder: float  #: the same of a decoder
    rows: float  #: rows a second that any small model answers, each alone and again with 31 others

    @classmethod
    def measured(cls, products: Mapping[str, float | None], *, kind: str, cores: int) -> "Rates | None":
        """Return the rates of a device by those of large products that its worker measured; None if it measured none.

        products: operations a second by format (float32, bfloat16 …), and `bytes` a second. kind: cpu or cuda. cores: of the
        host, where artifacts are scored whatever the device.
        """
        float32, moved = products.get("float32"), products.get("bytes")
        if not float32 or not moved:
            return None
        speed = float32 / PRODUCTS["float32"] if kind == "cpu" else cores / CORES
        return cls.of(float32, products.get("bfloat16") or 0.0, moved, speed=speed)

    @classmethod
    def of(cls, float32: float, bfloat16: float, moved: float, *, speed: float = 1.0) -> "Rates":
        """Return the rates of a device by those of its products and copies. speed: of the host, in reference machines."""
        return cls(
            float32=SHARES["float32"] * float32,
            bfloat16=max(SHARES["bfloat16"] * bfloat16, SHARES["float32"] * float32),
            simulated=SHARES["simulated"] * float32,
            step_seconds=STEP_SECONDS / speed,
            bytes=SHARES["bytes"] * moved,
            encoder=speed * ENCODER_FLOPS,
            decoder=speed * DECODER_FLOPS,
            rows=speed * SCORED_ROWS,
        )


CORES, PRODUCTS = 2, {"float32": 3.9e11, "bfloat16": 8.6e11, "bytes": 1.2e11}
"""The reference machine: two cores with AVX-512, VNNI and bfloat16, and what large products and copies reach there. Measured in
processor time of one core on a machine of this kind (9.1e10, 2.0e11, 2.9e10) while it needed 32.0 ms for what takes 15.0 ms in
bench/records/demo-quick.json (MiniLM-L6 in ONNX Runtime, 1 × 128, one thread), and scaled by both."""
SHARES = {"float32": 0.54, "bfloat16": 0.40, "simulated": 0.82, "bytes": 0.14}
"""Useful rate over that of large products; `simulated` over float32's (its forward products are integers, its gradients
bfloat16). Measured there with batches of MiniLM-L6, 32 × 24 tokens, forward and backward: 0.75, 0.56, 1.14, and 0.19 of the
bytes of AdamW's steps. What is left of that in whole jobs, with padding, validation and saving, is 0.72: demo-quick.json."""
STEP_SECONDS = 0.03
"""Seconds of a step beside its products: 0.05 of one core there (1 × 8 tokens), scaled alike."""
ENCODER_FLOPS, DECODER_FLOPS = 1.8e11, 1.4e11
"""Operations a second of a runtime that answers rows on both cores: 1.4e11 on one, with padding in batches of 32, and 1.3 times
as many on two where that was timed; and of a decoder that reads windows."""
SCORED_ROWS = 100.0
"""Rows a second that no small model exceeds, each alone and again among 32."""
REFERENCE = Rates.of(PRODUCTS["float32"], PRODUCTS["bfloat16"], PRODUCTS["bytes"])
"""The rates of the reference machine, for workers that have not measured theirs."""
