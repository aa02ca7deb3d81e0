"""Runs a whole job: pipeline, stages, backends, checkpoints and report. All other packages are lower layers."""
