"""Scores classifiers of images. Torch-free."""
