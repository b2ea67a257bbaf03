"""The one exception for bad input from outside."""


class UserError(Exception):
    """Input from outside (a file, an argument, a model, a question) that cannot be used.

    The message is one line that names what is wrong, where, and the mend. The command line prints it and exits with
    status 2; everything else (a traceback) is a mistake of ours.
    """
