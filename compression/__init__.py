"""The engine: takes a model through quantize → prune → distill. A library and a command of its own.

It knows nothing of the web, the database or the queue. `recipe`, `report`, `catalog` and `errors` are torch-free and may
be imported by the service and the client; everything else is for the engine alone.
"""
