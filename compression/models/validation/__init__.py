"""Validate uploads: read model files without opening them as models. Torch-free, constant memory."""
