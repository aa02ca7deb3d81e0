"""Writes folders that timm opens as models of its own."""
