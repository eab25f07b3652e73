"""A lab's own text: read, cut into tokens, packed into windows, matched across tokenizers."""
