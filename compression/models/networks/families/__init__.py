"""Image classifiers of transformers as graphs, straight from their config.json, and back. Torch-free; opens no model."""
