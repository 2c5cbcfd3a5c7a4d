"""The one exception that a user sees: a sentence with file, place, reason and remedy, never a traceback and never note text."""


class UserError(Exception):
    """Raised for bad input or a missing prerequisite; the command line prints the sentence and exits with code 2."""
