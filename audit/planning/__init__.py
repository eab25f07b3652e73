"""What an audit needs before it begins: how many prompts, and what asking them costs."""
