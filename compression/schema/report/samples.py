"""A few rows of test as people see them, and what artifacts answer to them."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field

from compression.schema.config import Config

MOST_SAMPLES = 6
"""Rows of a dataset that a report shows."""
LONGEST = 300
"""Characters of a text, a label or an answer that a report shows."""
NO_ANSWER = "no answer"
"""What people see where a context has no answer."""
Shown = Annotated[str, Field(max_length=LONGEST)]
Picture = Annotated[str, Field(max_length=1 << 16, pattern=r"^data:image/(png|jpeg);base64,[A-Za-z0-9+/]+={0,2}$")]
"""A small picture as a data: URI."""


def cut(text: str) -> str:
    """Return a text of at most LONGEST characters that any database stores; an ellipsis ends one that was cut."""
    short = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return short.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


class Sample(Config):
    """A row of test as people see it."""

    texts: Annotated[tuple[Shown, ...], Field(max_length=4, description="The texts that the task reads, cut if long.")] = ()
    picture: Annotated[Picture | None, Field(description="A small copy of an image.")] = None
    expected: Annotated[Shown, Field(description="Its label in the data.")]


class SampleAnswer(Config):
    """An artifact's answer to a sample."""

    text: Annotated[Shown, Field(description="The class, the number, the tags, or the stretch of the context.")]
    probability: Annotated[float | None, Field(ge=0, le=1, description="Of the class; null for other tasks.")] = None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        """Create it from keys of `schema.prediction.Answer`."""
        if answer.get("label") is not None:
            return cls(text=cut(answer["label"]), probability=round(answer["scores"][answer["label"]], 4))
        if answer.get("value") is not None:
            return cls(text=f"{answer['value']:.4g}")
        return cls(text=cut(" ".join(answer["tags"]) if "tags" in answer else answer["text"] or NO_ANSWER))


ANSWERS = "/answers"
"""Beside the names of datasets, which have no slash: the answers of each artifact. They may be stretches of the rows."""


def split_samples(report: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Split a report, as JSON, from the rows of the data that it shows, and from the answers to them.

    -> the report without them, and the rows by the name of their dataset, with the answers; None if there are none.
    """
    parts, artifacts = report.get("parts", []), report.get("artifacts", [])
    rows = {"": report.get("samples", []), **{part["name"]: part.get("samples", []) for part in parts}}
    rows[ANSWERS] = {one["name"]: one["answers"] for one in artifacts if one.get("answers")}
    kept = _without(report) | ({"parts": [_without(part) for part in parts]} if parts else {})
    if rows[ANSWERS]:
        kept["artifacts"] = [{**one, "answers": []} if one.get("answers") else one for one in artifacts]
    return kept, {name: some for name, some in rows.items() if some} or None


def _without(part: dict[str, Any]) -> dict[str, Any]:
    return {**part, "samples": []} if "samples" in part else part


def with_samples(report: dict[str, Any], rows: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a report, as JSON, with the rows that `split_samples` returned."""
    if not rows:
        return report
    parts = [{**part, "samples": rows.get(part["name"], [])} for part in report.get("parts", [])]
    whole = {**report, "samples": rows.get("", [])} | ({"parts": parts} if parts else {})
    if answers := rows.get(ANSWERS):
        whole["artifacts"] = [
            {**one, "answers": answers[one["name"]]} if one["name"] in answers else one for one in report["artifacts"]
        ]
    return whole
