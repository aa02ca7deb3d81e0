"""Forecasts of minutes beside what jobs took, before and after forecasts have learnt from finished jobs."""
