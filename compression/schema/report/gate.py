"""A quality gate's verdict: whether a compressed model's score may have dropped too far, by a paired test. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from compression.schema.config import Config

GateStatus = Literal["accept", "regression", "undecided"]
Method = Literal["bounded mean", "student", "bootstrap"]
Unit = Literal["score", "nats a token"]


class PairedDrop(Config):
    """The original's score minus the compressed model's on the same rows, with a one-sided bound on each side."""

    drop: Annotated[float, Field(description="In `unit`; negative if the compressed model scores better.")]
    lower: Annotated[float, Field(description="The true drop is at least this, with the gate's confidence.")]
    upper: Annotated[float, Field(description="The true drop is at most this, with the gate's confidence.")]
    rows: Annotated[int, Field(description="That both models answered; of a language model, texts.")]
    spread: Annotated[float, Field(description="Standard deviation of one row's part: the drop's error is this / √rows.")]
    unit: Unit = "score"
    method: Method
    """bounded mean: Gaffke's bounds on the mean of the rows' differences. student: Student's interval of a ratio over texts.
    bootstrap: paired samples of the rows, for metrics that are not means."""
    seed: Annotated[int | None, Field(description="Of the method's samples; null if it draws none.")] = None

    @property
    def text(self) -> str:
        """Return the drop with its bounds as text: 0.4 points (−0.3 to 1.1)."""
        if self.unit == "score":
            number, unit = "{:.2f}", "points"
            values = [100 * value for value in (self.drop, self.lower, self.upper)]
        else:
            number, unit, values = "{:.4f}", self.unit, [self.drop, self.lower, self.upper]
        drop, lower, upper = (number.format(value).replace("-", "−") for value in values)
        return f"{drop} {unit} ({lower} to {upper})"


class NotPaired(Config):
    """The reason why there is no paired test, in its place."""

    not_paired: str


class GateVerdict(Config):
    """Whether an artifact passes the job's quality gate. Validation alone decides; test is only reported."""

    status: GateStatus
    """accept: the upper bound of the drop is at most `max_drop`. regression: its lower bound is above. undecided: neither, or
    there was no paired test."""
    max_drop: float
    confidence: float
    original: Annotated[str, Field(description="Name of the artifact that it is compared with; of several datasets, empty.")]
    validation: PairedDrop | NotPaired
    test: PairedDrop | NotPaired
    rows_needed: Annotated[int | None, Field(description="Validation rows that would decide if the drop stays; null: none.")]
    reason: Annotated[str, Field(description="The verdict for people, with its figures.")]

    @property
    def text(self) -> str:
        """Return the verdict in one line."""
        return f"{self.status}{f', against {self.original}' if self.original else ''}. {self.reason}"

    @property
    def test_text(self) -> str:
        """Return what is reported of test in one line; of several datasets nothing."""
        if isinstance(self.test, PairedDrop):
            return f"On {self.test.rows:,} test rows the score drops by {self.test.text}: reported, not judged."
        return self.test.not_paired if self.original else ""

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the verdict and what is reported of test."""
        return tuple(filter(None, (self.text, self.test_text)))
