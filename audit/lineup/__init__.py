"""A suspect among the models of a bank: how alike answers are, and how unusual that is."""
