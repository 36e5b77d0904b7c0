"""Models ready to play: from names on a command line to a stream, and what live films share."""
