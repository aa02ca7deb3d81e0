"""Reproduces the published table on four GLUE tasks: `python -m bench glue`.

One command that can be stopped at any time and resumes. It tunes an encoder on SST-2, MRPC, STS-B and RTE, runs
the recipes on each, times all results beside each other in one process, and prints one table with intervals. Nothing here
chooses by the test rows.
"""
