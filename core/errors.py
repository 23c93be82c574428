"""How a run ends in one line: what was given to the program is wrong, or what it computed."""

_LONGEST = 2000


class InputError(ValueError):
    """A wrong value, file or combination, reported in one line that names it and says the fix.

    The command line prints the message without a traceback and exits with status 2; everything else that is
    raised is a defect of the program and keeps its traceback.

    Messages quote what files hold, so whatever would leave the line or speak to the terminal is escaped here, and the
    middle of a very long one is left out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_one_line(message))


class RunFailed(RuntimeError):
    """A run ended by what it computed, not by what it was given; reported in one line, and noted as a failed row."""


class OthersLost(RunFailed):
    """Another process of the run is gone; why, that one says itself if it can."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, 200 characters at most; its class's name where it has none."""
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__


def _one_line(message: str) -> str:
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
    if message.isprintable():
        return message
    return "".join(c if c.isprintable() else " " if c in "\r\n\t" else ascii(c)[1:-1] for c in message)
