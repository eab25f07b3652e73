"""What is taught in a run: its text, who teaches which of it, and what each teacher says."""
