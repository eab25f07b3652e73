"""Students that begin with the weights of a dense teacher; `convert` is where to read first."""
