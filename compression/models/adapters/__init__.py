"""Map each family's modules and stock config to common terms, and build smaller stock models."""
