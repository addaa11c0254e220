"""What a node gives where there is nothing to go on with."""


class ExecutionBlocker:
    def __init__(self, message: str | None) -> None:
        self.message = message
