"""Settings: their readers, names and files."""
