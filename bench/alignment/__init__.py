"""What odd widths and unaligned weights cost on this machine, and what runtimes gain by joining operators."""
