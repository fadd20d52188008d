"""Find the slots that single facts use.

Which slots do all wordings of a fact share, and how few suffice to learn it? Writes slots.json and
tokens.html.

    python pipelines/analyze_slots.py [recipe] [--analysis.num-facts N]
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "analyze_slots")
