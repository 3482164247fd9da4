"""What may go wrong in a run without ending it."""


class Failure(Exception):
    """A server under test, or what measures it, did not do what it should."""
