"""A toy package that extends Lathe: a modality, a model family, a stage and an exporter, each in the smallest form that works.

To add your own, copy the files that you need and name them in pyproject.toml:

- `declared` and `architecture` are the torch-free half, which the API and the checks of uploads import too;
- `modality` reads and scores vectors, `examples` and `model` encode them and compute with them in the engine;
- `round_small` is the stage, `numpy_format` with `numpy_runtime` the exporter.
"""
