"""Commands and flags: what a person types, and the sentence a mistake ends in."""
