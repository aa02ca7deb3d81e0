"""Measures a device table: graphs of single layers as Lathe's exporters write them, timed in turns in this process.

`layers` writes the graphs, `plan` says which are timed, `measuring` times them; `command` is `python -m compression
device-table`. What is predicted from a table is in `planning.device_times`.
"""
