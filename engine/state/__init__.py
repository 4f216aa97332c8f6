"""What operators remember between micro-batches: columns indexed by the number of a group."""
