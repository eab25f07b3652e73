"""Teacher signals on disk: shards in a hash chain, filled by capture, taken out and put in."""
