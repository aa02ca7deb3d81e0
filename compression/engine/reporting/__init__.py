"""Builds rows, notes and the report from the stages' measurements."""
