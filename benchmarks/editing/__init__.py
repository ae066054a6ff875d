"""The parts of `benchmarks/edits.py`: does a prompt edit do what was asked, and nothing else?"""
