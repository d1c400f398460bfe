"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something outside the program is wrong: a file, an argument, a full disk.

    The message is one sentence or two: what was found, what was expected, what to do. The command line prints it
    without a traceback and exits with code 2.
    """
