"""Count how often background text reads each slot of the memory model's checkpoint.

python pipelines/count_accesses.py [recipe] [--field value ...] RAY_AUTH_MODE=token ray job
submit --working-dir . -- python pipelines/count_accesses.py --storage s3://bucket/prefix
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "count_accesses")
