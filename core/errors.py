"""The one exception that means "what was given to the program is wrong"."""


class InputError(ValueError):
    """A wrong value, file or combination, told in one line that names it and says the fix.

    The command line prints the message without a traceback and exits with status 2; everything else that is
    raised is a defect of the program and keeps its traceback.
    """


class RunFailed(RuntimeError):
    """A run ended by what it computed, not by what it was given; told in one line, and noted as a failed row."""
