"""The audit's own error rates: each model of a bank as the suspect, against what is known."""
