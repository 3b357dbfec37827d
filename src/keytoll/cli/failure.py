"""What a command can't do."""


class Failure(Exception):
    """A command can't do what it should. The message is one line for whoever called it."""
