"""The command line's parser, and the commands that take more than a few lines."""
