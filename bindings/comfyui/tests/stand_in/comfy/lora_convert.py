"""Other formats, of which there are none here."""


def convert_lora(state):  # type: ignore[no-untyped-def]
    return state
