"""Networks as graphs of operators, whatever library made them: reading, groups of channels, costs. Torch-free."""
