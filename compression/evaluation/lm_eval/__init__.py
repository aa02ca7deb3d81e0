"""Runs lm-eval tasks by name: on a checkpoint from the command line, and on the models of a job."""
