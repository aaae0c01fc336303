"""Image -> logits: networks, losses, weight averaging."""
