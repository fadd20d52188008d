"""Find the slots of single facts: which ones all wordings share, how few suffice to learn one;
writes slots.json and tokens.html.

python pipelines/analyze_slots.py [recipe] [--analysis.num-facts N] [--field value ...]
RAY_AUTH_MODE=token ray job submit --working-dir . -- python pipelines/analyze_slots.py --storage
s3://bucket/prefix
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "analyze_slots")
