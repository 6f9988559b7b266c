"""The one exception that is shown to the user without a traceback."""


class UserError(Exception):
    """A problem that the user can fix: a wrong config value, a missing folder, a damaged file.

    The message is one line: what is wrong, where (file, line or config field, with its value) and what to do. Commands
    print it and exit with code 2.
    """
