"""How long an original is tuned, and which rates are tried: decisions that forecast and engine share. Torch-free."""

import math

from compression.schema.recipe.recipe import Prepare, Train

RATES = (6e-5, 2e-4, 6e-4, 2e-3)
"""Peak rates of the body that probes try, three to one apart: large models want the low ones, small models the high."""
LEAST_LONG_RUN = 0.1
"""What a probe's rate is multiplied by at least: a rate that is too high falls on the way, one that is too low stays."""
USUAL_RATE = 1
"""Place in RATES that is probed first, and left only for a rate that is surely better."""
MOST_PROBES = 5
"""Probes of one original: one of a head that was warmed up whole, three of the body's rate, and one of a faster head."""
WARM_UPS = 2
"""Of one original's new head: the layer that answers, then all of the head."""
HEAD_FACTOR = 5.0
"""Times the body's rate that a faster head is probed with."""
PROBE_STEPS = 64
"""Optimizer steps of a probe, about; whole epochs of a sample of train."""
SURELY = 2.0
"""Standard errors of the difference by which a probe's loss must be lower for its rates to be taken. On few rows the least loss
alone is chance: on 450 pairs of MRPC it chose a rate at which the model learned nothing, with one seed too low, with another
too high."""
PROBE_SHARE = 0.2
"""Of the steps that a job may have, at most, for probes; with fewer, no rate is probed."""
HEAD_RATE = 1e-3
"""Peak rate at which a new head is warmed up, the body frozen (Kumar et al. 2022: linear probing, then fine-tuning)."""
PLATEAU = 0.3
"""What the rate is multiplied by after a stretch without a gain; the weights go back to those of the last gain then."""
LEAST_STRETCH = 48
"""Optimizer steps of such a stretch at least: an epoch, or as many epochs as these take if data are few."""
LEAST_GAIN = 0.1
"""Standard errors of the validation score that an epoch must gain to count: less would go on for noise."""
LOSS_GAIN = 0.02
"""A loss on validation that is lower than ever by this share of the loss before training is a gain too: the rate stays, and
patience begins anew. While a model still learns fast its score may rest for an epoch."""
WARM_EPOCHS = 5
"""Where the number of epochs is open, the share `train.warmup` is of so many."""
BOUND_STEPS, LEAST_BOUND, MOST_BOUND = 20_000, 8, 100
"""Where the number of epochs is open, training is bounded by so many steps, but within so many epochs."""
EXPECTED_EPOCHS = 10
"""Epochs that forecasts and progress expect of open training: 7 on the demo's data, 11 on 77 intents (one run each)."""
FORWARD = 1 / 3
"""What a forward pass takes of a training step's time."""
FEATURE_ROWS = 4096
"""Rows of train, at most, that the linear probe is fitted to."""


def steps_an_epoch(rows: int, train: Train) -> int:
    """Count the optimizer steps of one pass over `rows`."""
    return max(math.ceil(math.ceil(rows / train.batch) / train.accumulate), 1)


def stretch(steps: int) -> int:
    """Return the epochs that open training waits for a gain before the rate falls. steps: of an epoch."""
    return max(math.ceil(LEAST_STRETCH / steps), 1)


def long_run(steps: int, most: float = math.inf) -> float:
    """Return what the best probe's rate is multiplied by for the training itself. steps: of an epoch; most: of all training.

    The best rate falls with about the root of the number of steps, and training has more of them than a probe has.
    """
    expected_steps = min(EXPECTED_EPOCHS * stretch(steps), bound(Prepare(), steps)) * steps
    return min(max(math.sqrt(PROBE_STEPS / max(min(expected_steps, most), 1)), LEAST_LONG_RUN), 1.0)


def patience(prepare: Prepare, steps: int) -> int | None:
    """Return the epochs without a gain after which training ends; None if it does not. steps: of an epoch.

    Of open training `prepare.patience` counts stretches, which are epochs unless data are few.
    """
    most = prepare.most_without_gain
    return most * stretch(steps) if most is not None and prepare.is_open else most


def bound(prepare: Prepare, steps: int) -> int:
    """Return the most epochs that an original is tuned for. steps: of an epoch."""
    if prepare.epochs is not None:
        return prepare.epochs
    return min(max(BOUND_STEPS // steps, LEAST_BOUND), MOST_BOUND)


def expected(prepare: Prepare, steps: int) -> int:
    """Return the epochs that are expected. steps: of an epoch."""
    return prepare.epochs if prepare.epochs is not None else min(EXPECTED_EPOCHS, bound(prepare, steps))


def probe_epochs(steps: int) -> int:
    """Return the epochs of one probe. steps: of an epoch of its sample."""
    return max(round(PROBE_STEPS / steps), 1)


def passes(prepare: Prepare, rows: int, train: Train, originals: int) -> float:
    """Return the passes over train that tuning is expected to take in training steps, those of probes included.

    originals: the baseline and the teachers that are tuned beside it.
    """
    if rows == 0 or not prepare.trains:
        return 0.0
    found = float(expected(prepare, steps_an_epoch(rows, train)) * max(originals, 1))
    if prepare.is_open:
        sample = PROBE_STEPS * train.batch * train.accumulate / rows
        found += sample * (WARM_UPS * FORWARD * max(originals, 1) + MOST_PROBES * prepare.probes)
    return found


def read_once(prepare: Prepare, rows: int) -> float:
    """Return the passes over train that the linear probe takes, forward alone."""
    return min(FEATURE_ROWS / max(rows, 1), 1.0) if prepare.trains else 0.0
