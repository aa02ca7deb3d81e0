"""The client: sends jobs with Idempotency-Keys until each is accepted, cancels some, and watches all to their ends."""

import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.image_uploads import NETWORK_RECIPE

TERMINAL = ("succeeded", "failed", "cancelled")
CHEAP: dict[str, Any] = {"prepare": {"epochs": 1, "rate": 1e-3}, "train": {"max_length": 32}}


@dataclass(frozen=True)
class Kind:
    """A kind of job. What costs is starting processes and exporting, so most jobs have few stages."""

    weight: int
    """How often it is drawn."""
    recipe: dict[str, Any]
    data: str = "texts"
    """Which of a sender's models and datasets it takes."""
    evaluate: dict[str, Any] = field(default_factory=lambda: {"length": 8})


KINDS = {
    "baseline": Kind(8, {**CHEAP, "quantize": None, "prune": None, "distill": None}),
    "quantized": Kind(7, {**CHEAP, "prune": None, "distill": None}),
    "all": Kind(
        5, {**CHEAP, "prune": {"ratio": 0.5, "multiple": 8, "calibration_rows": 32}, "distill": {"epochs": 8, "rate": 1e-3}}
    ),
    "images": Kind(4, {**NETWORK_RECIPE, "distill": None}, "images", {}),
}


@dataclass
class Order:
    key: str
    kind: str
    body: dict[str, Any]
    cancel_after: float | None
    """Seconds after its acceptance at which it is cancelled."""
    key_of_team: str
    """The API key that it is sent with."""
    hasty: bool
    """With a deadline that it may not keep."""
    twice: bool
    """Sent again after it was accepted, as by a client that lost the answer."""
    ids: set[str] = field(default_factory=set)
    accepted_at: float = 0.0
    cancel_asked: bool = False
    outcome: str | None = None
    events: list[int] = field(default_factory=list)

    @property
    def job(self) -> str:
        return min(self.ids)


@dataclass(frozen=True)
class Sender:
    key: str
    uploads: Mapping[str, tuple[str, str]]
    """By what the data are, the ids of a model and of a dataset."""


def plan(number: int, senders: list[Sender], chance: random.Random, name: str) -> list[Order]:
    """Draw the orders of a run; the teams send them in turn."""
    made = []
    for index in range(number):
        drawn = chance.choices(list(KINDS), [each.weight for each in KINDS.values()])[0]
        kind = KINDS[drawn]
        recipe = {**kind.recipe, "train": {**kind.recipe["train"], "seed": index}}
        cancelled, hasty = chance.random() < 0.1, chance.random() < 0.05
        sender = senders[index % len(senders)]
        model, dataset = sender.uploads[kind.data]
        body = {"models": {"base": model}, "datasets": [dataset], "recipe": recipe, "evaluate": kind.evaluate}
        body |= {"priority": chance.randint(-2, 2), "labels": {"order": str(index)}}
        body["deadline_seconds"] = chance.randint(1, 40) if hasty else None
        after = chance.uniform(0, 60) if cancelled else None
        twice = chance.random() < 0.2
        made.append(Order(f"{name}-{index}", drawn, body, after, sender.key, hasty=hasty, twice=twice))
    return made


class Client(threading.Thread):
    """Keeps a few orders open at once until all are over. `surprises` are answers that no kill explains."""

    def __init__(self, url: str, orders: list[Order], width: int) -> None:
        super().__init__(name="client", daemon=True)
        self.url, self.orders, self.width = url, orders, width
        self.surprises: list[str] = []
        self.repeated = 0
        self.held_back = 0
        """Requests that a quota refused; they are sent again later."""
        self.stopped = threading.Event()

    @property
    def over(self) -> int:
        return sum(order.outcome is not None for order in self.orders)

    def run(self) -> None:
        try:
            while self.over < len(self.orders) and not self.stopped.is_set():
                waiting = [order for order in self.orders if not order.ids and order.outcome is None]
                active = [order for order in self.orders if order.ids and order.outcome is None]
                for order in waiting[: max(0, self.width - len(active))]:
                    self._send(order)
                for order in active:
                    self._watch(order)
                self.stopped.wait(0.5)
        except Exception as error:
            self.surprises.append(f"the client broke: {error!r}")
            raise

    def _ask(self, order: Order, method: str, path: str, **more: Any) -> httpx.Response | None:
        headers = {"Authorization": f"Bearer {order.key_of_team}", **more.pop("headers", {})}
        try:
            answer = httpx.request(method, self.url + path, headers=headers, timeout=15, **more)
        except httpx.TransportError:
            return None
        return None if answer.status_code >= 500 else answer

    def _send(self, order: Order) -> None:
        for _ in range(2 if order.twice else 1):
            while not self.stopped.is_set():
                answer = self._ask(order, "POST", "/v1/jobs", json=order.body, headers={"Idempotency-Key": order.key})
                if answer is None:
                    self.repeated += 1
                elif answer.status_code == 202:
                    order.ids.add(answer.json()["id"])
                    break
                elif answer.status_code == 403 and answer.json()["code"] == "quota_exceeded" and not order.ids:
                    self.held_back += 1
                    return
                else:
                    self.surprises.append(f"{order.key}: POST answered {answer.status_code} {answer.text[:300]}")
                    order.outcome = "refused"
                    break
                time.sleep(0.3)
        order.accepted_at = time.monotonic()

    def _watch(self, order: Order) -> None:
        place = f"/v1/jobs/{order.job}"
        if order.cancel_after is not None and time.monotonic() - order.accepted_at >= order.cancel_after:
            order.cancel_asked = True  # and it may be obeyed even where no answer comes
            answer = self._ask(order, "POST", f"{place}/cancel")
            order.cancel_after = order.cancel_after if answer is None else None
            if answer is not None and answer.status_code not in {202, 409}:
                self.surprises.append(f"{order.key}: cancel answered {answer.status_code} {answer.text[:300]}")
        state = self._ask(order, "GET", place)
        told = self._ask(
            order, "GET", f"{place}/events", params={"after": order.events[-1] if order.events else 0, "page_size": 1000}
        )
        for answer in (state, told):
            if answer is not None and answer.status_code != 200:
                self.surprises.append(f"{order.key}: {answer.url} answered {answer.status_code} {answer.text[:300]}")
                return
        if told is not None:
            order.events += [event["seq"] for event in told.json()["items"]]
        # The state was read first: events that came with it are in the page, or the page is asked for again.
        if state is not None and told is not None and state.json()["state"] in TERMINAL:
            order.outcome = state.json()["state"]
