"""What a student learns from teachers: their outputs and caches, the objective, the weights of its losses."""
