"""The two commands, `distill` and `audit`: thin click apps over the packages they are named for."""
