"""Probes, one file each: a question asked of models, and what its answer can and cannot say."""
