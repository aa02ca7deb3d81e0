"""/v1/jobs/{id}/targets: what other targets of a finished job would come to, by its error tables, without training."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from app.api.dependencies import AskerDep, CallerDep, StorageDep
from app.api.openapi import problems
from app.core.errors import NoAnswer, NoSolver, NoTables, TooManyTargets
from app.jobs import targets
from app.jobs.target_solver import solver
from app.store.db import reading
from compression.schema.errors import CompressionError
from compression.schema.recipe.base import PartName
from compression.schema.target_answer import By, TargetAnswer, TargetFront, TargetQuestion

router = APIRouter(prefix="/v1/jobs/{job_id}/targets", tags=["jobs"])
ASKING: dict[int | str, dict[str, Any]] = problems(NoTables, NoAnswer, NoSolver, TooManyTargets, CompressionError)
Table = Annotated[str | None, Query(min_length=1, max_length=40, description="Id of the device table.")]
Part = Annotated[PartName, Field(description="Of several datasets, the one whose model is cut.")]


@router.post("", response_model=TargetAnswer, responses=ASKING)
def answer(job_id: str, body: TargetQuestion, caller: AskerDep, storage: StorageDep) -> TargetAnswer:
    """Say what a cut to these targets would come to: shape, size, milliseconds and score as predicted. Nothing is trained."""
    with reading() as session:  # it ends before the solver begins
        known = targets.find(session, caller.team, job_id, body.part, body.device_table)
    return targets.answer(solver, storage, known, body)


@router.get("", response_model=TargetFront, responses=ASKING)
def front(
    job_id: str, caller: CallerDep, storage: StorageDep, by: By = "parameters", part: Part = "", device_table: Table = None
) -> TargetFront:
    """Show the cuts that err least from mild to deep, by parameters or milliseconds. Nothing is trained."""
    with reading() as session:
        known = targets.find(session, caller.team, job_id, part, device_table)
    return targets.front(solver, storage, known, by)
