"""How fast a machine does each kind of a job's work: the reference machine, or one whose worker has measured it. Torch-free."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Product = Literal["float32", "tf32", "bfloat16", "int8"]
"""What a card multiplies in."""


@dataclass(frozen=True)
class Rates:
    """Speeds of a machine, in useful floating-point operations a second: 2 per parameter and token of a forward pass, 6 with
    the backward pass. Padding, attention and what is computed beside the products make them lower than a product's own.
    """

    float32: float  #: training and teachers in float32
    bfloat16: float  #: training in full precision, in bfloat16; the same as float32 where there is none
    simulated: float | None  #: training with fake quantization on a CPU; None: a card, whose products are told apart
    teachers: float  #: teachers' outputs, unless the recipe asks for float32: a card computes them in bfloat16
    step_seconds: float  #: seconds of an optimizer step beside its products and bytes
    bytes: float  #: bytes a second that an optimizer reads and writes
    encoder: float  #: answers of an encoder in its runtime, on all cores
    decoder: float  #: the same of a decoder
    rows: float  #: rows a second that any small model answers, each alone and again with 31 others
    further: float = 0.0  #: of these speeds in training, what each further device adds; processes on a CPU share its cores
    on_card: frozenset[str] = frozenset()  #: formats of artifacts that its GPU scores, in float32
    card_rows: float = 0.0  #: rows a second that it answers of any small model, each alone and again with 31 others
    tf32: float = 0.0  #: of a card, float32 products that it may round; the same as float32 where it does not
    int8: float = 0.0  #: of a card, forward passes that multiply integers; the same as float32 where there are none

    def of_simulated(self, forward: Product, backward: Product) -> float:
        """Return the rate of training with fake quantization: on a card of both passes together, the backward one of which does
        twice the forward one's work. forward, backward: what each multiplies in there.
        """
        if self.simulated is not None:
            return self.simulated
        each: dict[Product, float] = {"float32": self.float32, "tf32": self.tf32, "bfloat16": self.bfloat16, "int8": self.int8}
        return 3 / (1 / each[forward] + 2 / each[backward])

    @classmethod
    def measured(
        cls, products: Mapping[str, float | None], *, kind: str, cores: int, on_card: Collection[str] = ()
    ) -> "Rates | None":
        """Return the rates of a device by those of large products that its worker measured; None if it measured none.

        products: operations a second by format (float32, bfloat16 …), and `bytes` a second. kind: cpu or cuda. cores: of the
        host, where artifacts are scored but for those in the formats of `on_card`.
        """
        float32, moved, on_cpu = products.get("float32"), products.get("bytes"), kind == "cpu"
        if not float32 or not moved:
            return None
        speed, plain = float32 / PRODUCTS if on_cpu else cores / CORES, SHARES["float32"] * float32
        half = max(SHARES["bfloat16"] * (products.get("bfloat16") or 0.0), plain)
        rounded = {name: share * (products.get(name) or 0.0) or plain for name, share in CARD_SHARES.items() if not on_cpu}
        return cls(
            float32=plain,
            bfloat16=half,
            simulated=SHARES["simulated"] * float32 if on_cpu else None,
            teachers=plain if on_cpu else half,
            step_seconds=STEP_SECONDS / speed,
            bytes=SHARES["bytes"] * moved,
            encoder=speed * REFERENCE.encoder,
            decoder=speed * REFERENCE.decoder,
            rows=speed * REFERENCE.rows,
            further=0.0 if on_cpu else FURTHER_CARD,
            on_card=frozenset(on_card),
            card_rows=CARD_ROWS,
            **rounded,
        )


REFERENCE = Rates(
    float32=2.2e11,
    bfloat16=3.7e11,
    simulated=3.4e11,
    teachers=2.2e11,
    step_seconds=0.028,
    bytes=1.8e10,
    encoder=1.8e11,
    decoder=1.4e11,
    rows=100.0,
)
"""The reference machine, two cores with AVX-512, VNNI and bfloat16, for workers that have not measured their rates. Those of
training follow from the whole job of bench/records/demo-quick.json, which ran alone; an encoder's answers are 1.4e11 on one
core, with padding in batches of 32, and 1.3 times as many on two where that was timed."""
CORES, PRODUCTS = 2, 3.9e11
"""Its cores and its large products in float32: how much faster another machine answers rows is told by these. It needs 15.0 ms
for what takes 29.5 (MiniLM-L6 in ONNX Runtime, 1 × 128, one thread) where large products reach 1.95e11."""
SHARES = {"float32": 0.75, "bfloat16": 0.56, "simulated": 1.14, "bytes": 0.19}
"""Useful rate over that of large products or copies; `simulated` over float32's (its forward products are integers, its
gradients bfloat16). Measured with batches of MiniLM-L6, 32 × 24 tokens, forward and backward, and AdamW's steps, in processor
time of one core of an AMD EPYC where large products reach 9.1e10, 2.0e11 in bfloat16, and copies 2.9e10 bytes a second. Cards
have those of float32, bfloat16 and bytes, which nobody has measured on one; finished jobs correct them."""
CARD_SHARES = {"tf32": SHARES["bfloat16"], "int8": 0.28}
"""The same of products that a CPU does not have, or not apart from its gradients. Assumptions, never measured: TF32's as
bfloat16's; of integers half of that, since inputs and weights are rounded, and sums scaled, in passes of their own over float32
numbers. Finished jobs correct them."""
STEP_SECONDS = 0.0125
"""Seconds of a step beside its products on the reference machine: there 0.05 of one core (1 × 8 tokens), on two cores half."""
FURTHER_CARD = 0.8
"""What each further card adds to the speed of one. A fifth for gathering weights and summing gradients is an assumption, never
measured: it depends on what connects the cards. Finished jobs on as many devices correct it."""
CARD_ROWS = 40.0
"""Rows a second that a GPU answers at most, each alone and again with others: a pass of one row is as long as the host takes to
start its kernels, here 25 ms. An assumption, never measured; finished jobs of the machine correct it."""
