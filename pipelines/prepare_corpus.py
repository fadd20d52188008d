"""Read corpus shards, train or load the tokenizer, and pack token blocks; the generated world is
made first where the recipe has one.

python pipelines/prepare_corpus.py [recipe] [--field value ...] RAY_AUTH_MODE=token ray job
submit --working-dir . -- python pipelines/prepare_corpus.py --storage s3://bucket/prefix
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "prepare_corpus")
