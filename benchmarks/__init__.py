"""What gripproxy costs, side by side with what else is installed: `python -m benchmarks --help`."""
