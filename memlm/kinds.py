"""The kinds of artifact that stages hand to each other, and the names of the files in them.
Separate from the code that makes them, so that looking for artifacts imports nothing heavy."""

WORLD_KIND = "world"

LISTING_KIND = "listing"
LISTING_FILE = "shards.jsonl"

MIXTURE_KIND = "mixture"
MIXTURE_SHARD = "shard_00000000_mixture.jsonl.zst"

TOKENIZER_KIND = "tokenizer"

BLOCKS_KIND = "blocks"
BLOCKS_FILE = "blocks.parquet"

CORPUS_KIND = "corpus"
TOKENIZER_FOLDER = "tokenizer"
PARTS_FILE = "parts.json"
ACCOUNTING_FILE = "accounting.json"

QUESTIONS_KIND = "questions"
FACTS_FILE = "facts.jsonl"
HELD_OUT_FOLDER = "held_out"
TASKS_FILE = "tasks.json"
EXAMPLES_FILE = "examples.jsonl"
"""Solved examples that stand before the questions of several sets; missing where there are none."""
UPDATES_FILE = "updates.jsonl"

KNOWN_KIND = "known_questions"
ANSWERS_FILE = "answers.jsonl"

SAMPLES_KIND = "base_samples"

DOCUMENTS_KIND = "documents"
"""Its file is FACTS_FILE, too: a chunk is a fact whose statements are the chunk's texts."""

STATEMENTS_KIND = "statements"
STATEMENTS_FILE = "statements.jsonl"
STATED_QUESTIONS_FILE = "questions.jsonl"
SHORT_FILE = "short.jsonl"

WRITTEN_UNIT_KIND = "written_unit"
WRITTEN_UNIT_FILE = "records.jsonl"

CHECKPOINT_KIND = "checkpoint"
BASE_MANIFEST_FILE = "base_manifest{}.json"
"""In a patched checkpoint, the manifest of the checkpoint before; numbered from the second patch
on, so that each can be undone."""

CONTROL_KIND = "control"
CONTROL_FILE = "dense_addition.safetensors"

TRAINING_STATE_KIND = "training_state"

COUNTS_KIND = "background_counts"
PARTIAL_COUNTS_KIND = "partial_counts"
COUNTS_FILE = "counts.safetensors"

READS_KIND = "background_reads"
PARTIAL_READS_KIND = "partial_reads"
READS_FILE = "reads.safetensors"

PATCH_KIND = "patch"
PATCH_FILE = "patch.safetensors"
PREFIX_FILE = "prefix.safetensors"
"""What a method learned that puts keys and values before every text, and writes no weight."""
SCORES_FILE = "scores.json"
SCORES_PICTURE_FILE = "scores.png"
REPORT_FILE = "report.html"
ADVICE = "advice"
"""Name, in the details of a patch, of the reasons why nothing was learned."""

TRACE_KIND = "stream_trace"
METRICS_FILE = "stream_metrics.json"
METRICS_PICTURE_FILE = "stream_metrics.png"
TOKEN_PAGE_FILE = "tokens.html"

CHECKPOINTS_FILE = "checkpoints.json"
"""In the folder of a sweep over several checkpoints: the names of their runs."""
