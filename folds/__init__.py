"""What a tile is, which tiles there are, and how they are split."""
