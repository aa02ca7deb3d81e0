"""A team that owns one object of each kind, for tests that ask for all of them."""

import contextlib
import sqlite3
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.store.models import READ
from tests.app.api.conftest import Json, add_artifact, entry, job_body
from tests.app.api.finished import done
from tests.app.api.test_device_tables import store as store_table
from tests.conftest import Service
from tests.support.solved_tables import store_tables

FILE, DATA = "config.json", b"{}"


def team_of(http: httpx.Client) -> str:
    return str(next(team["id"] for team in http.get("/v1/teams").json()["items"] if team["mine"]))


@dataclass
class Owner:
    """The team whose objects everybody asks for, with one of each kind."""

    service: Service
    http: httpx.Client
    team: str
    objects: dict[str, str] = field(default_factory=dict)
    """Path parameter → id; `identifier` is a model's or a dataset's, by path."""

    def make(self) -> None:
        body = job_body(self.service, self.http)
        job = done(self.service, self.http, body)
        store_tables(self.service, job)
        share = self.http.post(f"/v1/jobs/{job}/share", json={}).json()
        waiting = {noun: self._uploading(noun) for noun in ("models", "datasets")}
        artifact = self._artifact(job)
        self.objects = {
            **waiting,
            "base": body["models"]["base"],
            "data": body["datasets"][0],
            "job_id": job,
            "artifact_id": artifact,
            "path": FILE,
            "try_id": self.http.post(f"/v1/jobs/{job}/try", json={"text": "good"}).json()["id"],
            "share_id": share["id"],
            "token": share["url"].rsplit("/", 1)[1],
            "key_id": self.http.post("/v1/keys", json={"name": "victim", "scope": READ}).json()["id"],
            "team_id": self.team,
            "device_id": self.http.post("/v1/devices", json={"name": artifact}).json()["id"],
            "table_id": store_table(self.service, f"dtb_{job[-8:]}"),
            "wanted": "0",
            "name": "none.js",
        }
        asked = self.http.post(f"/v1/artifacts/{artifact}/profiles", json={"device": artifact})
        self.objects["profile_id"] = asked.json()["id"]

    def _uploading(self, noun: str) -> str:
        body: Json = {"name": "n", "files": [entry(FILE if noun == "models" else "t.jsonl", DATA)]}
        if noun == "datasets":
            body |= {"format": "jsonl", "splits": {"train": ["t.jsonl"]}}
        return str(self.http.post(f"/v1/{noun}", json=body).json()["id"])

    def _artifact(self, job: str) -> str:
        facts = dict.fromkeys(("name", "kind", "stage", "precision", "opens_with"), "x") | {"score": {}}
        return add_artifact(self.service, job, FILE, DATA, facts)

    def address(self, path: str) -> str:
        """Fill a route's path with the owner's objects."""
        noun = path.split("/")[2] if path.startswith("/v1/") else ""
        known = {**self.objects, "identifier": self.objects.get(noun, "")}
        if noun == "datasets":
            known["path"] = "t.jsonl"
        return path.replace(":path", "").format(**known)

    def rows(self) -> dict[str, list[Any]]:
        """Return all rows that belong to the team, but for what notes that somebody asked."""
        ids = {one for one in self.objects.values() if len(one) > 12}
        with contextlib.closing(sqlite3.connect(self.service.database.url.removeprefix("sqlite:///"))) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            found: dict[str, list[Any]] = {}
            for table in (name for name in tables if not name.startswith("audit")):
                columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})") if row[1] != "last_used_at"]
                rows = database.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()
                found[table] = sorted(str(row) for row in rows if ids & set(map(str, row)))
        return found
