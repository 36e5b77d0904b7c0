"""What becomes of films and of the server when something goes wrong: kills, damage, bad files, a flood."""
