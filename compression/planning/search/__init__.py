"""Search for the widths of a cut with error tables, torch-free: the space of a model, its costs, and the solver."""
