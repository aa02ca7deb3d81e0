"""Alembic migrations, the same on SQLite and PostgreSQL. `python -m app.bootstrap` runs them."""
