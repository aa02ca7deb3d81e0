"""Runs a whole job: pipeline, stages, backends, checkpoints, report. All other packages are below it."""
