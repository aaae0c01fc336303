"""What a person looks at: the data, the folds, the training, the blend, and why a score is what it is."""
