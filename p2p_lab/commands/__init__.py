"""The commands of `python -m p2p_lab`, one file each with `add(parsers)` and `run(given)`."""
