"""Many films on many machines, by Ray: batches of films, engines of live films. Without Ray nothing of it loads."""
