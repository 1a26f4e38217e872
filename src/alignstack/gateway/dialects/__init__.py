"""One file per dialect."""
