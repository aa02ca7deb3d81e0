"""Reopens an artifact in its own runtime and compares its logits with the engine's model."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compression.evaluation.runtimes.runner import open_artifact
from compression.export.exporter import exporter_of, plain
from compression.export.interface import interface_of
from compression.export.onnx.trace import inputs_of, outputs_of
from compression.modalities.scoring.base import Floats as Logits, Inputs, Row, Runner, Scorer, stacked
from compression.modalities.text.decoding import Decoder
from compression.modalities.text.inputs import Ids, batch_of
from compression.models.adapters.registry import adapter_of
from compression.schema.artifact_formats import Kind
from compression.schema.errors import ExportMismatch
from compression.schema.manifest import Interface

RELATIVE = 1e-3
"""Tolerance for the order of floating-point sums, relative to the largest logit. Two FP32 runtimes differ by 1e-6 to 1e-5."""
HALF_NOISE = 2.0
"""Tolerance for a 16-bit artifact against float32, in units of the change that 16 bits cause in the engine's own model."""
PEAK = 6.0
"""Largest difference allowed for one row, in units of the allowed root mean square, plus the row's own rounding change."""
Rows = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.float64]
Engine = tuple[Callable[[Sequence[Inputs]], Logits], nn.Module]  #: runs the engine's own model; its token embedding
NUDGE, NUDGES, FIRM = 1e-5, 8, 0.5
"""Relative size (ten times the difference between runtimes) and number of the input perturbations that find tokens on the edge,
and the share of tokens that must remain; else the artifact fails."""


@dataclass(frozen=True)
class Bound:
    """Allowed distance of logits: the root mean square over all rows may reach `rms`, that of one row PEAK × `rms` + `beyond`.
    beyond: the change that rounding causes in each row, (rows,), or one number for all rows.
    """

    rms: float
    beyond: Distances | float = 0.0

    @property
    def rows(self) -> Distances:
        """Bound of each row: (rows,), or a single number for all rows."""
        return np.asarray(PEAK * self.rms + self.beyond)

    @property
    def largest(self) -> float:
        """Largest bound of any row."""
        return float(self.rows.max())

    def widened(self, float32: Logits, half: Logits) -> "Bound":
        """Return the bound of an artifact that is in bfloat16, by what this changes of the same model's logits."""
        off = half - float32
        return Bound(self.rms + HALF_NOISE * _rms(off), self.beyond + HALF_NOISE * _each(off))

    def of(self, chosen: Rows) -> "Bound":
        """Return the bound of the chosen rows."""
        return Bound(self.rms, np.broadcast_to(self.beyond, chosen.shape)[chosen])


@dataclass(frozen=True)
class Agreement:
    """Result of a comparison: root mean square and largest difference of logits, and the allowed bound.

    interface: what the reopened artifact reads and answers, if it was described.
    """

    difference: float
    largest: float
    allowed: Bound
    interface: Interface | None = None


def verify(
    model: nn.Module,
    folder: Path,
    *,
    kind: Kind,
    int8: bool,
    half: torch.dtype | None = None,
    sample: list[Row],
    scorer: Scorer,
    pad_id: int,
) -> Agreement:
    """Compare logits at batch size 1 and in one padded batch. Raises ExportMismatch.

    model: the engine's model, with simulated integers if `int8`; sample: at least one row, in the form that `scorer` reads.
    half: the 16 bits of an artifact that has them. Without `int8` it has none of the model's integers. If only weights are
    integers, no value is rounded that the order of sums could change, so the FP32 bound applies. Rounding may change a token's
    choice of experts, which is allowed; else only tokens without a firm choice in the engine's own model are excluded
    (`on_the_edge`).
    """
    exporter, runner = exporter_of(kind), open_artifact(kind, folder, threads=torch.get_num_threads())
    exporter.check_interface(runner, model, folder)
    asked = asked_of(scorer, folder, sample, model, pad_id)
    exact = not exporter.rounds_activations(model, int8=int8)
    reference = exporter.reference(model, int8=int8)
    expected = answers(reference, asked)
    floats, unit = plain(model), exporter.unit_of_noise(model)
    rounded = expected if unit is None else answers(unit, asked)
    allowed = limit(rounded, in_float32 := answers(floats, asked), noise=0.0 if exact else exporter.rounding_noise)
    half = half or exporter.computes_in
    if half is not None:
        halved, whole = (reference, expected) if exact else (floats, in_float32)
        allowed = allowed.widened(whole, answers(halved.to(half), asked))
    del floats, reference

    def engine() -> Engine:
        again = copy.deepcopy(model).to("cpu", torch.float32).eval()
        return lambda read: answers(again, read), again.get_input_embeddings()  # type: ignore[operator]

    rounded_off = half is not None or not exact
    found = compare_runner(runner, model, scorer, asked, expected, allowed, rounded=rounded_off, engine=engine)
    return replace(found, interface=interface_of(runner, model, folder, asked))


def compare_runner(
    runner: Runner[Any],
    model: nn.Module,
    scorer: Scorer,
    asked: Sequence[Inputs],
    expected: Logits,
    allowed: Bound,
    *,
    rounded: bool,
    engine: Callable[[], Engine],
) -> Agreement:
    """Compare an artifact's logits with the model's, and a language model's token by token with one pass. Raises
    ExportMismatch.

    rounded: the artifact rounds intermediate values, so single tokens may go to other experts. engine: opened if it does not,
    for the tokens that may go to other experts anyway (`on_the_edge`).
    """
    experts, found = adapter_of(model).shape_of(model.config).experts is not None, stacked(runner, asked)
    if not experts and not scorer.next_tokens:
        return compare(expected, found, allowed, choice=len(outputs_of(model)) == 1)
    routed = experts and rounded

    def one(wanted: Logits, given: Logits, read: Sequence[Inputs], within: Bound) -> Agreement:
        try:
            return compare(wanted, given, within, choice=not routed, places=True, routed=routed)
        except ExportMismatch:
            firm = np.zeros(0, bool)
            if experts and not routed:
                ask, table = engine()
                firm = ~on_the_edge(lambda: ask(read), table, allowed.rms)
            if not firm.size or firm.mean() < FIRM or firm.all():
                raise
            return compare(wanted[firm], given[firm], within.of(firm), places=True)

    agreement = one(expected, found, asked, allowed)
    if isinstance(runner, Decoder) and asked[-1].shape[1] > 1:
        ids = asked[-1].arrays["input_ids"][:1]
        one(*at_once_and_stepwise(runner, ids), [batch_of(ids.tolist())], Bound(allowed.rms))
    return agreement


def on_the_edge(ask: Callable[[], Logits], table: nn.Module, allowed: float) -> Rows:
    """Find tokens whose logits change by more than `allowed` if their embeddings change by NUDGE. -> (real tokens of all
    batches,)

    A router with two nearly equal experts may choose either, and so may two correct runtimes, whose sums differ by less. ask:
    runs the engine's own model, whose token embedding is `table`.
    """
    draw = torch.Generator().manual_seed(0)
    expected = ask()
    found = np.zeros(len(expected), bool)
    for _ in range(NUDGES):
        moved = table.register_forward_hook(lambda _, __, out: out * (1 + NUDGE * torch.randn(out.shape, generator=draw)))
        off = ask() - expected
        moved.remove()
        found |= np.sqrt(np.square(off, dtype=np.float64).mean(axis=-1)) > allowed
    return found


def asked_of(scorer: Scorer, folder: Path, sample: list[Row], model: nn.Module, pad_id: int) -> list[Inputs]:
    """Encode a sample with the tokenizer of the artifact in `folder`, row by row and as one batch."""
    return scorer.sample(scorer.reader(folder, pad_id), sample, int(getattr(model.config, "vocab_size", 0)))


def limit(simulated: Logits, float32: Logits, *, noise: float) -> Bound:
    """Return the allowed distance between an artifact and the simulation.

    Both round the same numbers but sum in a different order. A value on the edge between two integers then rounds the other
    way, and later layers see a change as large as rounding itself causes: two correct implementations (torch in float32 and in
    float64) differ by half to all of it. A lost bias or a wrong scale causes a far larger difference. So the unit is the
    simulation's own distance from the same weights in float32, over all rows and for each row: rounding changes some tokens ten
    times as much as others.
    """
    off, scale = simulated - float32, float(np.abs(simulated).max())
    return Bound(noise * _rms(off) + RELATIVE * scale, noise * _each(off))


def compare(
    expected: Logits, found: Logits, allowed: Bound, *, choice: bool = True, places: bool = False, routed: bool = False
) -> Agreement:
    """Compare (rows, labels) with (rows, labels). Raises ExportMismatch with the distance and the first row that differs.

    choice: whether a row's largest logit is its prediction; start and end logits compete with those of other tokens. places:
    rows are tokens of a language model, with so many labels that the farthest one is due to chance: the bound applies to the
    distance of a whole row. routed: rounding sends single tokens to other experts, so a single row has no bound.
    """
    if found.shape != expected.shape:
        raise ExportMismatch(f"the artifact answers with shape {found.shape} and not {expected.shape}")
    off = found - expected
    difference = _rms(off)
    each = _each(off) if places else np.abs(off).max(axis=-1)
    farthest = int((each - allowed.rows).argmax())
    largest, most = float(each.max()), float(np.broadcast_to(allowed.rows, each.shape)[farthest])
    if not np.isfinite(found).all() or difference > allowed.rms or (each[farthest] > most and not routed):
        raise ExportMismatch(
            f"logits differ by {difference:.2g} (root mean square; allowed {allowed.rms:.2g}) and {each[farthest]:.2g} (row "
            f"{farthest}; allowed {most:.2g})"
        )
    top = np.sort(expected, axis=-1)
    clear = (
        top[:, -1] - top[:, -2] > 2 * PEAK * allowed.rms if expected.shape[1] > 1 and choice else np.zeros(len(expected), bool)
    )
    other = np.flatnonzero(clear & (expected.argmax(-1) != found.argmax(-1)))
    if other.size:
        raise ExportMismatch(f"row {other[0]} is answered otherwise, though not a close call")
    return Agreement(difference=difference, largest=largest, allowed=allowed)


def at_once_and_stepwise(runner: Decoder, ids: Ids) -> tuple[Logits, Logits]:
    """Run a language model on a row of tokens in one pass, and its second half token by token. -> (tokens, vocabulary) each."""
    cache, found = None, []
    half = ids.shape[1] // 2
    for start, end in ((0, half), *((at, at + 1) for at in range(half, ids.shape[1]))):
        logits, cache = runner.step(np.ascontiguousarray(ids[:, start:end]), cache)
        found.append(logits[0])
    return runner.step(np.ascontiguousarray(ids))[0][0], np.concatenate(found)


@torch.inference_mode()
def answers(model: nn.Module, asked: Sequence[Inputs]) -> Logits:
    """Run the engine's model on the CPU. -> (rows of all batches, labels), or (real tokens of all batches, …)."""
    out, names, outputs, dtype = [], inputs_of(model), outputs_of(model), next(model.parameters()).dtype
    for batch in asked:
        given = ((name, torch.from_numpy(batch.arrays[name])) for name in names)
        inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in given}
        answer = model(**inputs)
        found = [answer[name].float().numpy() for name in outputs]
        out.append(batch.real(found[0] if len(found) == 1 else np.stack(found, axis=-1)))
    return np.concatenate(out)


def _each(values: Logits) -> Distances:
    """Return the root mean square of each row, (rows,)."""
    return cast(Distances, np.sqrt(np.square(values.reshape(len(values), -1), dtype=np.float64).mean(axis=-1)))


def _rms(values: Logits) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))
