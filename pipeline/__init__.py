"""Members: the packed tiles, training, prediction, the probability store, the grid of jobs."""
