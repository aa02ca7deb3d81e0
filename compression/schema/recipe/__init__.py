"""What to do with a model: one frozen, validated object shared by API, row, engine and report."""
