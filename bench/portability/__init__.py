"""Portability of int8 files: what the portable form costs (`portable`), and whether all processors agree (`equality`).

Both write files by the engine's own exporter; records of runs lie in `records/`, in the repository.
"""
