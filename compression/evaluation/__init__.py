"""Evaluation of models and artifacts: in the engine, in a fresh process, with lm-eval, on one row."""
