"""The client: the service's calls (http.py), and this machine's files on their way there and back."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import cast

from client.download import download
from client.http import Service
from client.local import Local, local_dataset, local_model
from client.types import Artifact, Dataset, Job, Model
from client.upload import Moved, add, manifest, until_ready

Place = str | PathLike[str]


class Lathe(Service):
    """A service, the key that says who asks, and files.

    with Lathe.from_config() as lathe:
        job = lathe.submit(model=lathe.add_model("model"), data=lathe.add_dataset("data"), recipe="quick")
        lathe.download(lathe.wait(job.id), "small")
    """

    def _add(self, local: Local, moved: Moved | None, timeout: float) -> Model | Dataset:
        promised = manifest(local.files)
        return until_ready(self, local.kind, add(self, local.kind, local.body, promised, moved=moved), timeout=timeout)

    def add_model(self, folder: Place, name: str | None = None, *, moved: Moved | None = None, timeout: float = 900.0) -> Model:
        """Upload what save_pretrained() wrote, or take up what is there of it already; return it once it is checked.

        moved: is told (path, bytes) as they go, from several threads; timeout: seconds that the check may take.
        Raises BadFolder, NotReady with the reasons, Problem, Unreachable.
        """
        return cast(Model, self._add(local_model(Path(folder), name), moved, timeout))

    def add_dataset(
        self,
        place: Place,
        name: str | None = None,
        *,
        task: str = "text-classification",
        columns: Mapping[str, str] | None = None,
        moved: Moved | None = None,
        timeout: float = 900.0,
    ) -> Dataset:
        """Upload a file (train) or a folder of train.*, validation.*, test.*, unlabelled.*; return it once it is checked.

        columns: what the data calls `text`, `label` and the task's other columns. Raises as add_model does.
        """
        local = local_dataset(Path(place), name, task=task, columns=columns)
        return cast(Dataset, self._add(local, moved, timeout))

    def chosen(self, job_id: str) -> list[Artifact]:
        """Return what the report says to take: one artifact, or one for each of several datasets."""
        report = self.report(job_id)
        names = set(report.headlines.values()) or {report.headline}
        return [artifact for artifact in self.artifacts(job_id) if artifact.name in names]

    def download(self, what: Job | Artifact | str, folder: Place, *, moved: Moved | None = None) -> list[Path]:
        """Fetch an artifact, or what a job's report says to take, into folder/<name of the artifact>; return those folders.

        Each file is checked against its SHA-256 before it gets its name; one that broke off is taken up where it broke.
        Raises WrongHash, BrokenTransfer, BadFolder, Problem.
        """
        artifacts = [what] if isinstance(what, Artifact) else self.chosen(what if isinstance(what, str) else what.id)
        return [download(self, artifact, Path(folder), moved=moved) for artifact in artifacts]
