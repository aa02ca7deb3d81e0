"""The stages, one file each. A stage changes the model and yields events. They are prepare, quantize, prune and distill."""
