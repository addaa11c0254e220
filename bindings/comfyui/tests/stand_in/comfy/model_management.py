"""Whether somebody asked to stop, which tests set."""

interrupted = False


class InterruptProcessingException(Exception):
    pass


def throw_exception_if_processing_interrupted() -> None:
    if interrupted:
        raise InterruptProcessingException
