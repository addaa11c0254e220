"""The pages of extra networks; the one of LoRAs writes down what it finds when it is refreshed."""

import os


class Page:
    """A page of this name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def refresh(self) -> None:
        """As the WebUI's: lists the files anew."""
        folder = os.environ["STAND_IN_LORAS"]
        with open(os.path.join(folder, "..", f"refreshed.{self.name}"), "w", encoding="utf-8") as file:
            file.write("\n".join(sorted(os.listdir(folder))))


extra_pages = [Page("checkpoints"), Page("lora")]
