"""The live server as viewers meet it, and the client that the benchmarks of it share."""
