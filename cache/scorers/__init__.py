"""Content-based choices over keys and queries; a policy fixes the counts and names one of these."""
