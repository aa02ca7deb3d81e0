"""Measures the API on a real PostgreSQL and real uvicorn processes: `python -m bench api`.

Each figure is a ratio within one run: many jobs against few, ours against a minimal handler, a process with streams against
itself without. Rounds are interleaved and the median counts, so that other load on the machine affects both sides; the load is
printed beside the table.
"""
