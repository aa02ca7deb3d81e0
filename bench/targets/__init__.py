"""Holds what answers to targets promise against what is measured: times, scores, widths, searches and whole jobs."""
