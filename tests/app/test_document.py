"""The OpenAPI document, from which people generate clients."""

from collections import Counter

from app.main import app


def test_each_operation_has_a_name_of_its_own() -> None:
    ways = {(path, method): way for path, each in app.openapi()["paths"].items() for method, way in each.items()}
    assert {("/v1/artifacts/{artifact_id}/files/{path}", method) for method in ("get", "head")} <= set(ways)
    names = Counter(way["operationId"] for way in ways.values())
    assert [name for name, count in names.items() if count > 1] == []
