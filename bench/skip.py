"""The exception of an engine that cannot take part, which is no failure."""


class Skip(Exception):
    """The engine is not installed here, or not meant for this mode; the message says which, for the table's notes."""
