"""A link to another rank that is lost: what ends a film on several ranks, and all of its ranks."""


class LinkLost(Exception):
    """A rank, or the link to it, is gone; the text says which, and the film can go on from what is on the disk."""
