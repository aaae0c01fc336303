"""Out-of-fold predictions -> a blend, its score, and the labels that are handed in."""
