"""Device tables and networks' facts across the migration to tables of layers between others, on both databases."""

from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from app.store.clock import now
from app.store.models import Model, StoredTable
from compression.models.networks.costs import network_facts
from compression.schema.report.network import NetworkFacts
from tests.app.conftest import SessionMaker
from tests.support.device_tables import HERE, made_table
from tests.support.migrations import migrate
from tests.support.network_graphs import resnet
from tests.support.rows import ready, team


def store(session: Session) -> str:
    """Store a table and a network; return the network's id."""
    facts = {
        "processor": HERE.processor,
        "threads": 1,
        "facts": {},
        "worker": "w",
        "measured_at": session.scalar(select(now())),
    }
    session.add(StoredTable(digest=HERE.digest, content=made_table().model_dump(mode="json"), **facts))
    model, _ = ready(session, team(session))
    model.facts = {"family": "network", "network": network_facts(resnet((2, 2), 32, size=16)).model_dump(mode="json")}
    return model.id


def test_the_way_back_leaves_facts_that_the_version_before_reads(engine: Engine, transaction: SessionMaker) -> None:
    with transaction() as session:
        key = store(session)
        text_model, _ = ready(session, team(session))
        text_model.facts = {"family": "bert"}
    migrate(engine, "0019", down=True)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM device_tables")).scalar() == 0
    with transaction() as session:
        model = session.get_one(Model, key)
        assert model.facts is not None
        found = NetworkFacts.model_validate(model.facts["network"])
        whole = network_facts(resnet((2, 2), 32, size=16))
        moves = {layer.name for layer in whole.layers if layer.kind == "move"}
        assert moves
        assert found.layers == tuple(layer for layer in whole.layers if layer.name not in moves)
        assert moves.isdisjoint(name for block in found.blocks for name in block.layers)
        assert found.parameters(found.widths) == whole.parameters(whole.widths)
    migrate(engine, "head")


def test_tables_of_before_are_gone_after_the_migration(engine: Engine, transaction: SessionMaker) -> None:
    migrate(engine, "0019", down=True)
    with transaction() as session:
        store(session)
    migrate(engine, "head")
    with transaction() as session:
        assert session.scalars(select(StoredTable.id)).all() == []
