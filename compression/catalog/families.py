"""The model families that Lathe can take apart."""

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Field

from compression import heads
from compression.errors import UnsupportedArchitecture
from compression.recipe import Axis, Config, Task


class Family(Config):
    """One model family: what its stock config can express, and which architectures belong to it."""

    name: str
    model_type: str
    architectures: tuple[str, ...]
    axes: tuple[Axis, ...]
    tasks: tuple[str, ...]
    limits: str
    distance_buckets: Annotated[int, Field(description="Rows of a bias by distance, one column a head; 0 without.")] = 0


AXES: tuple[Axis, ...] = get_args(Axis)
TASKS: tuple[Task, ...] = tuple(task for task in get_args(Task) if task != "causal-lm")
"""Those that encoders are made for."""
COUPLED = "hidden = heads × head size, so hidden and heads shrink together; every layer has the same widths."


def _family(name: str, stem: str, pretraining: tuple[str, ...], limits: str = COUPLED, distance_buckets: int = 0) -> Family:
    suffixes = ("Model", *(head.suffix for head in heads.HEADS), *pretraining)
    architectures = tuple(f"{stem}{suffix}" for suffix in suffixes)
    return Family(
        name=name,
        model_type=name,
        architectures=architectures,
        axes=AXES,
        tasks=TASKS,
        limits=limits,
        distance_buckets=distance_buckets,
    )


BERT = _family("bert", "Bert", ("ForMaskedLM", "ForPreTraining"))
DISTILBERT = _family("distilbert", "DistilBert", ("ForMaskedLM",))
ROBERTA = _family("roberta", "Roberta", ("ForMaskedLM",))
XLM_ROBERTA = _family("xlm-roberta", "XLMRoberta", ("ForMaskedLM",))
ELECTRA = _family(
    "electra",
    "Electra",
    ("ForPreTraining", "ForMaskedLM"),
    f"{COUPLED} Tables narrower than hidden stay as they are, and hidden cannot become as narrow as they are.",
)
MPNET = _family(
    "mpnet", "MPNet", ("ForMaskedLM",), f"{COUPLED} All layers keep the same heads: they share a bias by distance.", 32
)
FAMILIES: dict[str, Family] = {family.model_type: family for family in (BERT, DISTILBERT, ROBERTA, XLM_ROBERTA, ELECTRA, MPNET)}


def family_of(config: Mapping[str, Any]) -> Family:
    """Find the family of a config.json. Raises UnsupportedArchitecture."""
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    known = ", ".join(FAMILIES)
    if family is None:
        raise UnsupportedArchitecture(f"model_type {kind!r} is not one of: {known}", param="config.json:model_type")
    names = config.get("architectures") or ()
    if not isinstance(names, list | tuple):
        raise UnsupportedArchitecture("architectures is not a list of names", param="config.json:architectures")
    for name in names:
        if name not in family.architectures:
            raise UnsupportedArchitecture(
                f"architecture {name!r} is not one of: {', '.join(family.architectures)}", param="config.json:architectures"
            )
    return family
