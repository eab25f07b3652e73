"""What a student has learnt: on held-out text and on tasks, with intervals."""
