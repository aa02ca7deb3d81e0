"""Tasks of lm-eval by name: of a checkpoint as a command, and of a job's artifacts."""
