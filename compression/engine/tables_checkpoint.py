"""The checkpoint of a model's error tables: a later attempt or job with the same inputs reads it and computes nothing.

A folder of its own beside those of the stages. It is known by the digest of the model, the calibration rows and the settings,
so it holds for any recipe that comes to the same model; a job finds it in the checkpoints that it goes on from, and among those
that the service stored when a `tables_saved` event told of them. What is not written yet is computed anew.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from compression.models.tensors import Tensors
from compression.schema.error_tables import ErrorTables
from compression.schema.events import TablesSaved
from compression.schema.recipe.prune import Prune
from compression.schema.solved_search import SolvedSearch, TablesCheckpoint
from compression.schema.tables_files import ORDERS, SOLVED, TABLES
from compression.system import durable_files
from compression.system.sealed_folder import STATE, UnusableCheckpoint, list_files, seal, unseal, verify_files

FOLDER = TABLES  #: beside the stages' folders; of several datasets each has one within


def write_tables(folder: Path, part: str, tables: ErrorTables, orders: Tensors) -> None:
    """Write `folder`/tables[/part] atomically and durably."""
    with durable_files.folder(folder / FOLDER / part) as place:
        save_file(orders, place / ORDERS)
        facts = TablesCheckpoint(tables=tables, files=list_files(place))
        (place / STATE).write_text(seal(facts.model_dump_json(indent=1)), encoding="utf-8")


def read_tables(folder: Path, part: str, digest: str) -> tuple[ErrorTables, Tensors]:
    """Read and verify `folder`/tables[/part]. Raises UnusableCheckpoint if it is missing, damaged or of other inputs."""
    place = folder / FOLDER / part
    try:
        facts = TablesCheckpoint.model_validate_json(unseal(place / STATE))
        verify_files(place, facts.files)
        orders = load_file(place / ORDERS)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ValidationError) as problem:
        raise UnusableCheckpoint(f"error tables cannot be read: {problem}") from problem
    if facts.tables.digest != digest or {group.key for group in facts.tables.groups} != {*orders}:
        raise UnusableCheckpoint("the error tables are of another model, other rows or other settings")
    for group in facts.tables.groups:
        if sorted(orders[group.key].flatten().tolist()) != [*range(group.units)]:
            raise UnusableCheckpoint(f"the error tables name other units of {group.key} than it has")
    return facts.tables, orders


def write_search(folder: Path, part: str, search: SolvedSearch) -> None:
    """Write beside the tables, durably, what other targets are answered from."""
    durable_files.write_text(folder / FOLDER / part / SOLVED, seal(search.model_dump_json()))


def stored_search(folder: Path, earlier: Path | None, part: str) -> tuple[Path, SolvedSearch]:
    """Return the checkpoints' folder that has what a job's search has stored, and that: this attempt's, or an earlier one's.
    Raises UnusableCheckpoint.
    """
    place = folder if earlier is None or (folder / FOLDER / part / SOLVED).is_file() else earlier
    try:
        return place, SolvedSearch.model_validate_json(unseal(place / FOLDER / part / SOLVED))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ValidationError) as problem:
        raise UnusableCheckpoint(f"what the search had stored cannot be read: {problem}") from problem


def tables_saved(folder: Path, part: str, tables: ErrorTables) -> TablesSaved:
    """Return the event that lists the files of the tables."""
    place = folder / FOLDER
    own = [file for file in list_files(place / part) if "/" not in file.path]
    files = (file.model_copy(update={"path": f"{part}/{file.path}"}) if part else file for file in own)
    return TablesSaved(part=part, seconds=tables.seconds, files=tuple(files))


def copy_tables(earlier: Path, folder: Path, part: str, settings: Prune | None = None) -> None:
    """Copy an earlier job's tables to this one's checkpoints, for those who go on from them.

    settings: of an attempt that goes on from `earlier`: what a search with the same ones had stored is copied too, for those
    who ask before this attempt has searched.
    """
    before, names = earlier / FOLDER / part, [STATE, ORDERS]
    with suppress(UnusableCheckpoint):
        if settings is not None and stored_search(earlier, None, part)[1].prune == settings:
            names.append(SOLVED)
    with durable_files.folder(folder / FOLDER / part) as place:
        for name in names:
            shutil.copyfile(before / name, place / name)
