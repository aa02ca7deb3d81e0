"""What the API costs: `python -m bench api`, on a real PostgreSQL and real uvicorn processes.

Each figure is a ratio against something of the same run: many jobs against few, ours against a bare handler, a process with
streams against itself without. Rounds are interleaved and their median is told, so that what else the machine does meanwhile
touches both sides; how busy it was stands beside the table.
"""
