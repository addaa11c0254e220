"""Progress bars that remember what they were told."""

heard: list[tuple[int, int]] = []


class ProgressBar:
    def __init__(self, total: int) -> None:
        self.total = total

    def update_absolute(self, value: int, total: int) -> None:
        heard.append((value, total))
