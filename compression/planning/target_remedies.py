"""What is offered where a cut aims at a target of its own, and not by a ratio. Torch-free, pure."""

import math
from collections.abc import Iterator

from compression.planning.remedy_case import Case
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Remedy


def aim_higher(case: Case, prune: Prune) -> Iterator[Remedy]:
    """Offer the job's targets to a cut that aims lower. Of two for one key the first counts, which is the absolute one."""
    why = f"{case.sizes}; the cut was aimed at another target."
    target, latency, asked = prune.target_params, prune.target_latency, case.targets
    if "parameters" in case.too_large and target is not None and asked.parameters is not None and target != asked.parameters:
        yield case.change("prune.target_params", asked.parameters, why)
    fewer = asked.parameter_reduction
    if "parameter_reduction" in case.too_large and target is not None and fewer > 0 and not fewer <= target < 1:
        yield case.change("prune.target_params", fewer, why)
    most = asked.latency_ms.value if asked.latency_ms is not None else None
    if (
        "latency_ms" in case.too_large
        and latency is not None
        and most is not None
        and (latency.milliseconds or math.inf) > most
    ):
        yield case.change("prune.target_latency", {"milliseconds": most}, why)
    if "speed_up" in case.too_large and latency is not None and max(latency.speed_up or 1, 1) < asked.speed_up:
        yield case.change("prune.target_latency", {"speed_up": asked.speed_up}, why)
    yield from _fewer_bytes(case, prune.target_bytes)


def _fewer_bytes(case: Case, target: float | None) -> Iterator[Remedy]:
    """Offer the bytes that the row would need, as the file that it has says what the target's count is worth."""
    reached = case.row.ratios.size_reduction
    if "size_reduction" not in case.too_large or target is None or reached >= 1:
        return
    factor = (1 - case.targets.size_reduction) / (1 - reached)
    proposed = math.floor(factor * target) if target >= 1 else round(1 - factor * (1 - target), 4)
    if proposed and factor < 1:
        yield case.change("prune.target_bytes", proposed, f"{case.sizes}; the cut was aimed at another target.")


def keeps_meaning(case: Case, remedy: Remedy) -> bool:
    """Return whether a cut's bytes mean the same with a remedy: a number of them is another cut in another scheme."""
    prune = case.recipe.prune
    counted = prune is not None and prune.target_bytes is not None and prune.target_bytes >= 1
    return not counted or remedy.key != "recipe.quantize" or bool(remedy.now and remedy.proposed)
