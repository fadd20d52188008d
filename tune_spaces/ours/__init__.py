"""Rules of memlm's own for the slots that move and for how they move."""
