"""The questions of the problem sets."""
