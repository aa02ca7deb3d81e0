"""Tasks that any modality can have: classification and regression."""
