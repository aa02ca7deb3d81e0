"""Measures networks of images: CIFAR-10's ResNets through whole jobs, and shapes at 224 × 224 for speed."""
