"""Prompt-to-Prompt and what came after it, scored on the same cases (`benchmarks/rivals.py`)."""
