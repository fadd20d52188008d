"""Cut the documents to learn into chunks and say each in many ways, by rules or with Active
Reading; prepare_corpus does it too.

python pipelines/augment_documents.py [recipe] [--field value ...] python
pipelines/augment_documents.py [recipe] --questions.documents.augmenter general --writer.model
FOLDER_OR_HUB_ID RAY_AUTH_MODE=token ray job submit --working-dir . -- python
pipelines/augment_documents.py --storage s3://bucket/prefix
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "augment_documents")
