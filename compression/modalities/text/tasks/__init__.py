"""Tasks that exist only for texts."""
