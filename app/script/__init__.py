"""What a film shows when: shot lists, imported scripts, and their chunks."""
