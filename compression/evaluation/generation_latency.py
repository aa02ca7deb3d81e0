"""Measures the generation latency of two language models in turns. Torch-free."""

import statistics
import time
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from compression.evaluation.turns import Pass, Timer, Turns, speed_up_interval
from compression.modalities.text.decoding import Decoder, chosen, greedy, last_step
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
    prompts, steps = Turns(), Turns()
    with Timer(threads) as timer:
        _round(sides, prompt, 0, timer, tokens=2)  # to warm up
        started = time.perf_counter()
        _take(_round(sides, prompt, 0, timer, tokens=TOKENS), prompts, steps)
        count = min(max(int(seconds / (time.perf_counter() - started)), FEWEST_ROUNDS), MOST_ROUNDS)
        for number in range(1, count):
            _take(_round(sides, prompt, number, timer, tokens=TOKENS), prompts, steps)
    rows, length = prompt.shape
    first, first_reference = (statistics.median(times) for times in prompts.milliseconds)
    latency = latency_of(*steps.quiet().milliseconds, (rows, length), threads, candidate.name)
    latency = latency.model_copy(update={"interrupted": steps.disturbed})
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
        speed_up_interval=speed_up_interval(own, reference),
    )


def prompt_of(length: int, config: Mapping[str, Any]) -> int:
    """Return the prompt length: `length`, or less if TOKENS would not fit in the config's positions."""
    most = config.get("max_position_embeddings") or config.get("n_positions") or length + TOKENS
    return max(min(length, most - TOKENS), 1)


def warm_up(decoder: Decoder, prompt: Ids) -> None:
    """Generate from a prompt as in the later measurement, so that the memory of all steps is allocated."""
    for _ in islice(greedy(decoder, prompt), TOKENS + 1):  # not one more: there may be no position for it
        pass


def _take(passes: list[list[Pass]], prompts: Turns, steps: Turns) -> None:
    prompts.add(passes[0])
    for step in passes[1:]:
        steps.add(step)


def _round(sides: list[Decoder], prompt: Ids, turn: int, timer: Timer, *, tokens: int) -> list[list[Pass]]:
    """Return the passes of the models for one prompt, then for each of `tokens` steps. turn: even if the first begins."""
    caches: list[Any] = [None for _ in sides]
    new, passes = [prompt for _ in sides], [list[Pass]() for _ in range(tokens + 1)]

    def ask(index: int) -> None:
        logits, caches[index] = last_step(sides[index], new[index], caches[index])
        new[index] = chosen(logits)

    for number, of_turn in enumerate(passes):
        order = list(range(len(sides)))[:: 1 if (turn + number) % 2 == 0 else -1]
        found = {index: timer.time(partial(ask, index)) for index in order}
        of_turn.extend(found[index] for index in range(len(sides)))
    return passes
