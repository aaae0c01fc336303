"""The zip that is handed in: written, verified, remembered, compared. Knows labels and tiles, no members or blends."""
