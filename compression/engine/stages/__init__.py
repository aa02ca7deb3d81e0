"""The stages, one file each: prepare, quantize, prune, distill. A stage changes the model and yields events."""
