"""Rows, notes and the report, from what the stages measured."""
