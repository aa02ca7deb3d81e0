"""Which units go, by which scores, and least squares for what is left."""
