"""Films that play: engine thread, sessions, player, recorder; no HTTP."""
