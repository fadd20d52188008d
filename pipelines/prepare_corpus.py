"""Read corpus shards, train or load the tokenizer, and pack the text into blocks of tokens.

Generates the world first if the recipe has one.

    python pipelines/prepare_corpus.py [recipe]
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "prepare_corpus")
