"""Where a teacher comes from: a local model directory, or the one embedded in a package."""
