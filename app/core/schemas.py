"""Base classes of request and response bodies, the page, and shared field types. Request bodies reject unknown keys."""

from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema

from compression.schema import file_names
from compression.schema.config import guard_numbers

# PostgreSQL stores no NUL in text, so the API rejects it and both databases behave alike.
TEXT = r"^[^\x00]*$"
# A name is often the only link to what it names, so it has something that can be seen.
NAME = r"^[^\x00]*[^\x00\s][^\x00]*$"
# Label keys that both databases can filter by: `key:value`, without characters that have a meaning in a JSON path.
LABEL_KEY = r'^[^\x00-\x1f":\\]+$'
Item = TypeVar("Item")
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=NAME)]
Id = Annotated[str, Field(max_length=40, pattern=TEXT)]
FilePath = Annotated[
    str, Field(min_length=1, max_length=200, pattern=r'^[^\x00-\x1f\x7f\\<>:"|?*]+$'), AfterValidator(file_names.portable)
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LabelKey = Annotated[str, Field(min_length=1, max_length=63, pattern=LABEL_KEY)]
LabelPair = Annotated[str, WithJsonSchema({"type": "string", "pattern": r'^[^\x00-\x1f":\\]+:'})]
"""A label filter; job_list.py rejects other forms."""
LabelValue = Annotated[str, Field(max_length=200, pattern=TEXT)]


class Body(BaseModel):
    """A request body."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Guard the numeric fields."""
        made: CoreSchema = guard_numbers(handler(source))
        return made


class Out(BaseModel):
    """A response body."""

    model_config = ConfigDict(from_attributes=True)


class Page(Out, Generic[Item]):
    """A keyset page; send `next_page_token` back as `page_token` for the next one."""

    items: list[Item]
    next_page_token: str | None = None
