"""The loss: its terms, their mathematics, and the engine that never holds all logits."""
