"""Searches among the widths of a cut, side by side on real error tables."""
