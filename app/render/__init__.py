"""The headless render: a script into a film file, its replay and its report."""
