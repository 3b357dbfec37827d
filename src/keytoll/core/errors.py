"""What is wrong with an input, and in which field."""


class InvalidValue(ValueError):
    """A value from outside breaks a rule. `field` names it as the caller wrote it; the message is safe to show."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
