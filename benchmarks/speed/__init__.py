"""How fast a stream is, what it costs in operations and memory, and how soon the commands answer."""
