"""Specs, shapes and tensor names of the supported families. Torch-free."""
