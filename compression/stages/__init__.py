"""The stages, one file each: prepare, quantize, prune, distill. A stage changes the model and yields events.

Maths lives beside, in losses.py and importance.py; the training loop is the one in training.py.
"""
