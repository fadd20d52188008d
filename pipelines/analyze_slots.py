"""Find the slots that single facts use.

Shows which slots all wordings of a fact share, and how few suffice to learn it; writes slots.json
and tokens.html.

    python pipelines/analyze_slots.py [recipe] [--analysis.num-facts N]
"""

from memlm.cli import main_of

if __name__ == "__main__":
    main_of(__doc__, "analyze_slots")
