"""Tasks that only texts have."""
