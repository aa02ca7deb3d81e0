"""Is an upload what it says it is? Reads model files without opening them as models. Torch-free, constant memory."""
