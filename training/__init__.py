"""Training recipe of the embedded model: in the repository so that anyone can repeat it."""
