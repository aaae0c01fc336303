"""The ground floor: errors, whole files, the command line. Knows nothing of tiles, and imports nothing of ours."""
