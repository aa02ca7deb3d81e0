"""What other targets of a job come to, by the error tables that its engine left: nothing is trained, and nothing is written."""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest, NoAnswer, NoTables, NotFound, Problem, compression_problem
from app.jobs import device_tables, jobs
from app.jobs.stage_results import is_tables, tables_name
from app.jobs.target_solver import FRONT_SECONDS, SolverProcess
from app.store.models import Checkpoint, Job, StoredTable, Worker
from app.store.storage import Storage
from compression.planning.search.solver_request import SolverReply, SolverRequest
from compression.schema.device_table import DeviceTable
from compression.schema.errors import CompressionError
from compression.schema.recipe.recipe import JobEvaluate, Recipe
from compression.schema.report.measurements import Row, Score
from compression.schema.solved_search import MOST_JSON
from compression.schema.stages import PRUNED, wanted
from compression.schema.tables_files import SOLVED, STATE
from compression.schema.target_answer import By, ScoreFacts, TargetAnswer, TargetFront, TargetQuestion

SECONDS = 1.5
"""Of the solver for one question, so that an answer takes less than two, but for the first, which starts the process."""


@dataclass(frozen=True)
class Known:
    """What is known of a job for answering targets."""

    team: str
    prefix: str  #: of its files in storage
    files: dict[str, dict[str, Any]]  #: the two texts, by name
    table: DeviceTable | None
    table_id: str | None
    scores: ScoreFacts | None
    evaluate: JobEvaluate


def find(session: Session, team: str, job_id: str, part: str, table_id: str | None) -> Known:
    """Return what is known of a job. table_id: of the device table that is to be used.

    Raises NotFound, InvalidRequest for a part that the job has not, and NoTables.
    """
    job = jobs.get(session, team, job_id)
    names = [one.name for one in job.parts]
    if part not in (names or [""]):
        lack = f"it has no part {part!r}" if part else "it has several datasets, each with a cut of its own"
        cause = f"{lack}; name one of its parts: {', '.join(names)}" if names else "the job has one dataset, no parts"
        raise InvalidRequest(cause, param="part")
    row = session.get(Checkpoint, (job.id, tables_name(names.index(part) if names else None)))
    within = f"{part}/" if part else ""
    files = {file["path"].removeprefix(within): file for file in row.files} if row is not None else {}
    if row is None or not {STATE, SOLVED} <= files.keys():
        prune = Recipe.model_validate(job.recipe).prune
        searches = prune is not None and prune.search is not None
        raise NoTables(f"the search of {job_id} was not done" if searches else f"the recipe of {job_id} has no prune.search")
    table, used = _device_table(session, job, table_id)
    kept = {name: files[name] for name in (STATE, SOLVED)}
    return Known(team, row.prefix, kept, table, used, _scores(job, part), JobEvaluate.model_validate(job.evaluate))


def solved_parts(session: Session, job: Job) -> list[str]:
    """Return the names of a job's datasets whose targets can be answered; "" of its only one."""
    found = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job.id, is_tables())).all()
    solved = {row.stage for row in found if any(file["path"].endswith(SOLVED) for file in row.files)}
    names = [(part.name, tables_name(number)) for number, part in enumerate(job.parts)] or [("", tables_name(None))]
    return [name for name, stage in names if stage in solved]


def _device_table(session: Session, job: Job, table_id: str | None) -> tuple[DeviceTable | None, str | None]:
    """Return the table that is named, or else that of the job's processor and threads whose instructions and runtime are most
    like the job's, of several the newest. Raises NotFound.
    """
    if table_id is not None:
        try:
            return device_tables.get_table(session, table_id), table_id
        except NotFound as problem:
            raise NotFound(problem.cause, param="device_table", remedy="GET /v1/device-tables lists them.") from None
    worker = session.get(Worker, job.worker_id) if job.worker_id is not None else None
    environment = (job.report or {}).get("environment", {})
    processor = environment.get("processor") or (worker.facts.get("processor") if worker else None)
    threads = JobEvaluate.model_validate(job.evaluate).threads
    offered = session.scalars(device_tables.of_processor(processor, threads)).all()

    def likeness(one: StoredTable) -> int:
        known = (one.facts["instructions"], one.facts["runtimes"].get("onnxruntime"))
        return sum(have == had for have, had in zip(known, map(environment.get, ("instructions", "onnxruntime")), strict=True))

    found = max(offered, key=likeness, default=None)
    return (None, None) if found is None else (device_tables.get_table(session, found.id), found.id)


def _scores(job: Job, part: str) -> ScoreFacts | None:
    """Return what the job's own cut did to the score on validation; None if that was not scored, the job has no report or the
    smallest of its sizes was not made: the stored error is that one's.
    """
    rows = [Row.model_validate(metric.row) for metric in job.metrics]
    own = [row.parts[part] if part else row for row in rows if not part or part in row.parts]
    stages = [row.stage for row in own]
    if job.report is None or PRUNED not in stages or stages.index(PRUNED) == 0 or wanted(job.recipe)[-1] not in stages:
        return None
    before, after = own[stages.index(PRUNED) - 1].judged_score, own[-1].judged_score
    if not isinstance(before, Score) or not isinstance(after, Score):
        return None
    return ScoreFacts(before=before, after=after)


def answer(solver: SolverProcess, storage: Storage, known: Known, question: TargetQuestion) -> TargetAnswer:
    """Return what targets come to. Raises NoTables, NoAnswer, NoSolver, TooManyTargets, and the engine's errors about them."""
    found = _ask(solver, storage, known, question, SECONDS).answer
    if found is None:
        raise NoAnswer("the solver gave no answer")
    return found.model_copy(update={"device_table": known.table_id if found.no_milliseconds is None else None})


def front(solver: SolverProcess, storage: Storage, known: Known, by: By) -> TargetFront:
    """Return cuts from mild to deep. Raises as `answer` does."""
    found = _ask(solver, storage, known, by, FRONT_SECONDS).front
    if found is None:
        raise NoAnswer("the solver gave no answer")
    return found.model_copy(update={"device_table": known.table_id if found.no_milliseconds is None else None})


def _ask(solver: SolverProcess, storage: Storage, known: Known, asked: TargetQuestion | By, seconds: float) -> SolverReply:
    request = SolverRequest(
        tables=_text(storage, known, STATE),
        search=_text(storage, known, SOLVED),
        device_table=known.table,
        scores=known.scores,
        tokens=known.evaluate.length,
        batch=known.evaluate.batch,
        asked=asked,
        seconds=seconds,
    )
    reply = SolverReply.model_validate_json(solver.ask(known.team, request.model_dump_json().encode(), seconds))
    if reply.unreadable is not None:
        raise NoTables(f"the job's error tables cannot be used: {reply.unreadable}")
    if reply.refused is not None:
        raise _refusal(reply.refused)
    if reply.late:
        raise NoAnswer(f"the solver found nothing in {seconds:g} s")
    return reply


def _refusal(refused: dict[str, str | None]) -> Problem:
    kind = type("Refused", (CompressionError,), {"code": refused["code"], "__doc__": "The targets cannot be solved for."})
    return compression_problem(kind(refused["cause"], param=refused["param"], remedy=refused["remedy"]))


def _text(storage: Storage, known: Known, name: str) -> str:
    """Read a text of the tables, no more than it may have, and check its digest. Raises NoTables."""
    file = known.files[name]
    if file["size"] > MOST_JSON:
        raise NoTables(f"{name} of the job's error tables is larger than {MOST_JSON:,} bytes")
    try:
        content = b"".join(storage.read(f"{known.prefix}/{file['path']}", 0, file["size"]))
        found = content.decode()
    except (FileNotFoundError, UnicodeDecodeError):
        raise NoTables(f"{name} of the job's error tables is not in storage") from None
    if hashlib.sha256(content).hexdigest() != file["sha256"]:
        raise NoTables(f"{name} of the job's error tables is damaged")
    return found
