"""Tasks that any modality can have: classes and numbers."""
