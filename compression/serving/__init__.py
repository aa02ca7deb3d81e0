"""Serves one artifact over HTTP: `python -m compression serve FOLDER`. Torch-free; the only folder that knows of HTTP."""
