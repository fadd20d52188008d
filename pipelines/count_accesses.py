"""Count how often background text reads each slot of the memory model's checkpoint.

python pipelines/count_accesses.py [recipe]
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "count_accesses")
