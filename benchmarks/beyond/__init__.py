"""What the benchmarks of moving, sharper maps and animations share: cases and scores."""
