"""Cut the documents to learn into chunks and restate each chunk in many ways, by rules or with a
language model (Active Reading). prepare_corpus does this too.

    python pipelines/augment_documents.py [recipe]
    python pipelines/augment_documents.py [recipe] --questions.documents.augmenter general \\
        --writer.model FOLDER_OR_HUB_ID
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "augment_documents")
