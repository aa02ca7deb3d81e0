"""Data augmentation for distillation: synonyms, back-translation and splices. A teacher provides the targets."""
