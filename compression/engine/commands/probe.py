"""`python -m compression probe SPEC.json`: tries the device that engines will have, and prints what it is and how fast.

It runs inside the confinement of engines and with their environment, so what it finds is what they find.
"""

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import torch
from torch import Tensor

from compression.evaluation.runtimes.runner import lacking_on_card
from compression.schema.artifact_formats import ARTIFACT_FORMATS
from compression.schema.worker_device import DeviceRates, ProbeSpec, WorkerDevice
from compression.system.cards import driver_version
from compression.system.host_lock import host_lock
from compression.system.process import private_channel
from compression.system.processor import processor

SECONDS = 0.2
"""For which a product is repeated; the quickest counts."""
LONG_ENOUGH = 0.02
"""Seconds of one product whose start no longer counts; until then its sides double."""
SMALLEST, LARGEST = 256, 8192
"""Sides of the squares that are multiplied."""
COPIED_BYTES = {"cpu": 128 << 20, "cuda": 1 << 30}
TRIED = 64
"""Sides of the products that are compared with float64's."""
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
CLOSE = 0.02
"""Maximum error of a product, as a share of its largest element: bfloat16 has 8 bits."""


def probe(spec: ProbeSpec) -> WorkerDevice:
    """Describe a device, try its number formats and measure their rates. Raises RuntimeError or AssertionError without one."""
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    device = torch.device(spec.kind)
    torch.zeros(1, device=device)
    found = _card() if spec.kind == "cuda" else _processor()
    working = (*(_name(dtype) for dtype in FLOATS if multiplies(device, dtype)), *_integers(device))
    found = found.model_copy(update={"dtypes": working})
    if not spec.measure:
        return found
    with host_lock() as turn:  # as latencies: nothing else of Lathe is timed on this host meanwhile
        # Without the lock rates stay unknown, until the worker tries again.
        return found.model_copy(update={"rates": measure_rates(device, working)}) if turn.exclusive else found


def multiplies(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether a product in a number format comes out as float64's."""
    left, right = _drawn(TRIED), _drawn(TRIED)
    expected = left.double() @ right.double()
    try:
        result = (left.to(device, dtype) @ right.to(device, dtype)).cpu().double()
    except (RuntimeError, TypeError):
        return False
    return bool((result - expected).abs().max() <= CLOSE * expected.abs().max())


def _integers(device: torch.device) -> Iterator[str]:
    """Yield int8 if its products are exact, which sums in 32 bits are."""
    left, right = (torch.randint(-127, 128, (TRIED, TRIED), generator=_seeded(), dtype=torch.int8) for _ in range(2))
    try:
        result = torch._int_mm(left.to(device), right.to(device).t().contiguous().t()).cpu()
    except (RuntimeError, AttributeError):
        return
    if torch.equal(result.long(), left.long() @ right.long()):
        yield "int8"


def measure_rates(device: torch.device, working: tuple[str, ...], seconds: float = SECONDS) -> DeviceRates:
    """Measure the rate of each working format, and of copies. seconds: for each."""
    rates = {name: flops(device, getattr(torch, name), seconds) for name in working}
    if device.type == "cuda" and torch.cuda.get_device_capability()[0] >= 8:
        torch.backends.cuda.matmul.allow_tf32 = True
        rates["tf32"] = flops(device, torch.float32, seconds)
        torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.zeros(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    rates["bytes"] = 2 * source.numel() / quickest(device, partial(torch.empty_like(source).copy_, source), seconds)
    return DeviceRates(**rates)


def flops(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Return the operations per second of a square product, large enough that its start does not count."""
    size = SMALLEST
    while True:
        if dtype == torch.int8:
            whole = torch.ones(size, size, dtype=dtype, device=device)
            product: Callable[[], Tensor] = partial(torch._int_mm, whole, whole.t())
        else:
            left = _drawn(size).to(device, dtype)
            product = partial(torch.mm, left, left)
        once = quickest(device, product, 0.0)
        if once >= LONG_ENOUGH or size >= LARGEST:
            return 2.0 * size**3 / min(once, quickest(device, product, seconds))
        size *= 2


def quickest(device: torch.device, work: Callable[[], object], seconds: float) -> float:
    """Repeat work for so long, after once that does not count; return the seconds of the quickest time."""
    wait = torch.cuda.synchronize if device.type == "cuda" else _nothing
    work()
    wait()
    best, end = float("inf"), time.monotonic() + seconds
    while True:
        start = time.perf_counter()
        work()
        wait()
        best = min(best, time.perf_counter() - start)
        if time.monotonic() >= end:
            return best


def _nothing() -> None:
    """A CPU's work is done when its call returns."""


def _card() -> WorkerDevice:
    facts = torch.cuda.get_device_properties(0)
    found = tuple(kind for kind in ARTIFACT_FORMATS if lacking_on_card(kind) is None)
    return WorkerDevice(
        kind="cuda",
        name=facts.name,
        memory_bytes=facts.total_memory,
        capability=f"{facts.major}.{facts.minor}",
        driver=driver_version(),
        runtime=torch.version.cuda,
        scores=found,
    )


def _processor() -> WorkerDevice:
    return WorkerDevice(kind="cpu", name=processor(), memory_bytes=psutil.virtual_memory().total)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _drawn(size: int) -> Tensor:
    return torch.randn(size, size, generator=_seeded())


def main(path: Path) -> int:
    """Probe the device of the spec at `path` and print one JSON line; return 0, or 2 with the reason on standard error."""
    channel = private_channel()
    spec = ProbeSpec.model_validate_json(path.read_bytes())
    try:
        found = probe(spec)
    except (RuntimeError, AssertionError) as problem:  # the CPU build of torch asserts
        sys.stderr.write(f"{str(problem).strip().partition(chr(10))[0]}\n")
        return 2
    print(found.model_dump_json(), file=channel)
    return 0
