"""Teachers: where they are had from, whether they may teach, and what each says of a text."""
