"""Have a language model put the facts to learn into statements, in several wordings that are
each checked to hold the answer.

python pipelines/write_statements.py [recipe] --writer.model FOLDER_OR_HUB_ID [--field value ...]
python pipelines/write_statements.py [recipe] --writer.model NAME --writer.endpoint.base-url
http://localhost:8000/v1 RAY_AUTH_MODE=token ray job submit --working-dir . -- python
pipelines/write_statements.py --storage s3://bucket/prefix --writer.model HUB_ID
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "write_statements")
