"""The stages prepare, quantize, prune and distill, one file each. A stage changes the model and yields events."""
