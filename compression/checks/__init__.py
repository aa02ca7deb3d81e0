"""Is an upload what it says it is? Reads model files without opening them as models. Torch-free, constant memory.

Each check collects every reason that it can find, as CompressionErrors, and raises none of them.
"""
