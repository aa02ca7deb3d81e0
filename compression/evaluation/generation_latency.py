"""Measures the generation latency of two language models in turns. Torch-free."""

import statistics
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np

from compression.modalities.text.decoding import Decoder, chosen, greedy
from compression.modalities.text.inputs import Ids
from compression.schema.report.measurements import Generation, Latency

TOKENS = 32
"""Tokens generated after each prompt. Few compared with the prompt, so that a step's time is for the stated length."""
FEWEST_ROUNDS, MOST_ROUNDS = 3, 20


def time_both(candidate: Decoder, baseline: Decoder | None, prompt: Ids, *, threads: int, seconds: float) -> Latency:
    """Generate from a prompt with both models in turns, so that load on the machine affects both. prompt: (rows, tokens),
    without padding. A round is a prompt and TOKENS steps of each model in alternating order; `seconds` limits the rounds,
    within bounds. Without a baseline the candidate is its own.
    """
    sides = [candidate] if baseline is None else [candidate, baseline]
    _round(sides, prompt, 0, tokens=2)  # to warm up
    started = time.perf_counter()
    rounds = [_round(sides, prompt, 0, tokens=TOKENS)]
    count = min(max(int(seconds / (time.perf_counter() - started)), FEWEST_ROUNDS), MOST_ROUNDS)
    rounds += [_round(sides, prompt, number, tokens=TOKENS) for number in range(1, count)]
    rows, length = prompt.shape
    first, first_reference = (statistics.median(times[side][0] for times in rounds) for side in (0, -1))
    own, reference = ([step for times in rounds for step in times[side][1:]] for side in (0, -1))
    latency = latency_of(own, reference, (rows, length), threads, candidate.name)
    generation = Generation(
        prompt=length,
        tokens=TOKENS,
        prefill_per_second=1000 * rows * length / first,
        decode_per_second=1000 * rows / latency.median_ms,
        first_token_ms=first,
        baseline_prefill_per_second=1000 * rows * length / first_reference,
        baseline_decode_per_second=1000 * rows / latency.baseline_median_ms,
        baseline_first_token_ms=first_reference,
    )
    return latency.model_copy(update={"generation": generation})


def latency_of(own: list[float], reference: list[float], shape: tuple[int, ...], threads: int, runtime: str) -> Latency:
    """Summarize a candidate's and a baseline's times in milliseconds. shape: (rows, tokens) of what they read."""
    quartiles = statistics.quantiles(own, n=4)
    return Latency(
        median_ms=statistics.median(own),
        p95_ms=float(np.percentile(own, 95)),
        spread_ms=quartiles[2] - quartiles[0],
        baseline_median_ms=statistics.median(reference),
        baseline_p95_ms=float(np.percentile(reference, 95)),
        runs=len(own),
        batch=shape[0],
        length=shape[1],
        threads=threads,
        runtime=runtime,
    )


def prompt_of(length: int, config: Mapping[str, Any]) -> int:
    """Return the prompt length: `length`, or less if TOKENS would not fit in the config's positions."""
    most = config.get("max_position_embeddings") or config.get("n_positions") or length + TOKENS
    return max(min(length, most - TOKENS), 1)


def warm_up(decoder: Decoder, prompt: Ids) -> None:
    """Generate from a prompt as in the later measurement, so that the memory of all steps is allocated."""
    for _ in islice(greedy(decoder, prompt), TOKENS + 1):  # not one more: there may be no position for it
        pass


def _round(sides: list[Decoder], prompt: Ids, turn: int, *, tokens: int) -> list[list[float]]:
    """Return each model's milliseconds for one prompt, then for each of `tokens` steps. turn: even if the first begins."""
    caches: list[Any] = [None for _ in sides]
    new, times = [prompt for _ in sides], [list[float]() for _ in sides]
    for number in range(tokens + 1):
        for index in range(len(sides)) if (turn + number) % 2 == 0 else reversed(range(len(sides))):
            start = time.perf_counter_ns()
            logits, caches[index] = sides[index].step(new[index], caches[index])
            new[index] = chosen(logits)
            times[index].append((time.perf_counter_ns() - start) / 1e6)
    return times
