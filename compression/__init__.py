"""The engine: takes a model through quantize → prune → distill. A library and a command of its own.

It does not depend on the web app, the database or the queue. `schema` and `planning` are torch-free, and the service and the
client may import them; the rest is for the engine alone.
"""
