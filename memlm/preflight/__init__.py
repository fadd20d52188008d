"""Answers before a run: can it run here (doctor), what would it do (dry run), what would it cost
(cost/)?"""
