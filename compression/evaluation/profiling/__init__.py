"""Measures what an artifact costs on this machine: `python -m compression profile SPEC.json`.

The parent checks the files and starts fresh processes (`part`), which open the artifact in its own runtime. Torch-free, unless
the artifact is a checkpoint; nothing here knows a format or a kind of data: runtimes and manifests tell.
"""
