"""Let a language model state the facts to learn in several wordings, and check that each holds the
answer.

    python pipelines/write_statements.py [recipe] --writer.model FOLDER_OR_HUB_ID
    python pipelines/write_statements.py [recipe] --writer.model NAME \\
        --writer.endpoint.base-url http://localhost:8000/v1
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "write_statements")
