"""What a film remembers: sidecar, request, provenance, journal, session log."""
