"""Inner loops that are compiled where numba is installed (the extra `fast`). What they compute is written once more, in
numpy, where it is used: that is what runs without numba, and what tests hold these against."""
