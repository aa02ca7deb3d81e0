"""The recipe: one frozen, validated object that API, database row, engine and report share."""
