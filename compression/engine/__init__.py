"""A whole job: its pipeline, its stages and backends, its checkpoints, its report. Everything else is below."""
