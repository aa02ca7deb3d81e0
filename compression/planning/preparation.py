"""How long an original is fine-tuned, and which rates: shared by estimates and engine. Torch-free."""

import math

from compression.schema.recipe.recipe import Prepare, Train

RATES = (6e-5, 2e-4, 6e-4, 2e-3)
"""Peak rates of the body that probes try, about a factor of three apart: large models need low rates, small ones high rates."""
LEAST_LONG_RUN = 0.1
"""Minimum factor on a probe's rate: a rate that is too high falls in training, one that is too low stays."""
USUAL_RATE = 1
"""Index in RATES of the rate that is probed first. Another is chosen only if it is surely better."""
MOST_PROBES = 5
"""Probes of one original: one of a head that was warmed up as a whole, three of the body's rate, and one of a faster head."""
PROBE_JUDGEMENTS = 3
"""Times that a probe reads validation: as its epoch ends, for the losses of groups of rows, and for the score's error."""
WARM_UPS = 2
"""Warm-ups of one original's new head: first the layer that outputs, then the whole head."""
HEAD_FACTOR = 5.0
"""A faster head is probed with this multiple of the body's rate."""
PROBE_STEPS = 64
"""Approximate optimizer steps of a probe; whole epochs of a sample of train."""
SURELY = 2.0
"""Standard errors of the difference by which a probe's loss must be lower for its rates to be chosen. On few rows the lowest
alone is chance: on 450 pairs of MRPC it chose rates that learned nothing, with one seed too low, with another too high."""
PROBE_SHARE = 0.2
"""Maximum share of a job's steps for probes; with fewer steps, no rate is probed."""
TUNING_SHARE = 1 / 3
"""Share of `auto.budget_minutes` that tuning with all probes may be expected to take; where it is more, there is only one.
A choice among rates, a third of the tuning, is then worth less than the time to try one more size."""
HEAD_RATE = 1e-3
"""Peak rate at which a new head is warmed up while the body is frozen (Kumar et al. 2022: linear probing, then fine-tuning)."""
PLATEAU = 0.3
"""Factor on the rate after a stretch without a gain; the weights then return to those of the last gain."""
LEAST_STRETCH = 48
"""Minimum optimizer steps of such a stretch: an epoch, or as many epochs as these steps take if data are few."""
LEAST_GAIN = 0.1
"""Standard errors of the validation score that an epoch must gain to count: with less, training would continue on noise."""
LOSS_GAIN = 0.02
"""A validation loss below the lowest before by this share of the loss before training is a gain too: the rate stays, and
patience restarts. While a model still learns fast its score may not move for an epoch."""
WARM_EPOCHS = 5
"""If the number of epochs is open, `train.warmup` is a share of so many epochs."""
BOUND_STEPS, LEAST_BOUND, MOST_BOUND = 20_000, 8, 100
"""If the number of epochs is open, training is limited to so many steps, within these minimum and maximum epochs."""
EXPECTED_EPOCHS = 10
"""Epochs of open training that a probe's rate is lowered for."""
EXPECTED_WAITS = 3
"""Estimates and progress expect open training to end after one epoch and so many times its patience: 7 epochs with a patience
of 2, 10 with 3. It took 6 and 7 on the demo's data, 10 on those and 11 on 77 intents (one run each)."""
FORWARD = 1 / 3
"""A forward pass's share of a training step's time."""
FEATURE_ROWS = 4096
"""Maximum rows of train that the linear probe is fitted to."""


def steps_an_epoch(rows: int, train: Train) -> int:
    """Return the optimizer steps of one pass over `rows`."""
    return max(math.ceil(math.ceil(rows / train.batch) / train.accumulate), 1)


def stretch(steps: int) -> int:
    """Return the epochs that open training waits for a gain before the rate falls. steps: of an epoch."""
    return max(math.ceil(LEAST_STRETCH / steps), 1)


def long_run(steps: int, most: float = math.inf) -> float:
    """Return the factor on the best probe's rate for longer training, by the root of its steps. steps: of an epoch."""
    expected_steps = min(EXPECTED_EPOCHS * stretch(steps), bound(Prepare(), steps)) * steps
    return min(max(math.sqrt(PROBE_STEPS / max(min(expected_steps, most), 1)), LEAST_LONG_RUN), 1.0)


def patience(prepare: Prepare, steps: int) -> int | None:
    """Return the epochs without a gain after which training ends, or None; `prepare.patience` stretches if it is open."""
    most = prepare.most_without_gain
    return most * stretch(steps) if most is not None and prepare.is_open else most


def bound(prepare: Prepare, steps: int) -> int:
    """Return the maximum epochs of an original's fine-tuning. steps: of an epoch."""
    if prepare.epochs is not None:
        return prepare.epochs
    return min(max(BOUND_STEPS // steps, LEAST_BOUND), MOST_BOUND)


def expected(prepare: Prepare, steps: int) -> int:
    """Return the expected epochs. steps: of an epoch."""
    waited = patience(prepare, steps)
    if prepare.epochs is not None or waited is None:
        return bound(prepare, steps)
    return min(1 + EXPECTED_WAITS * waited, bound(prepare, steps))


def probe_epochs(steps: int) -> int:
    """Return the epochs of one probe. steps: of an epoch of its sample."""
    return max(round(PROBE_STEPS / steps), 1)


def passes(prepare: Prepare, rows: int, train: Train, originals: int) -> float:
    """Return the expected passes over train of fine-tuning all originals, in training steps, with probes."""
    if rows == 0 or not prepare.trains:
        return 0.0
    found = float(expected(prepare, steps_an_epoch(rows, train)) * max(originals, 1))
    if prepare.is_open:
        sample = PROBE_STEPS * train.batch * train.accumulate / rows
        found += sample * (WARM_UPS * FORWARD * max(originals, 1) + MOST_PROBES * prepare.probes)
    return found


def judged(prepare: Prepare, rows: int, train: Train, originals: int) -> float:
    """Return how often fine-tuning all originals is expected to read validation: after each epoch, warm-up and probe."""
    if rows == 0 or not prepare.trains:
        return 0.0
    epochs = expected(prepare, steps_an_epoch(rows, train)) + WARM_UPS * prepare.is_open
    return epochs * max(originals, 1) + PROBE_JUDGEMENTS * MOST_PROBES * prepare.probes


def read_once(prepare: Prepare, rows: int) -> float:
    """Return the passes over train of the linear probe, forward only."""
    return min(FEATURE_ROWS / max(rows, 1), 1.0) if prepare.trains else 0.0
