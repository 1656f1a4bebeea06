"""Training steps of backlit and of its peers, timed side by side: `python -m benchmarks --help`."""
