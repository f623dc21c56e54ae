"""Where and when the members of a sweep run: each is a command in a process of its own."""
