"""Rows on disk in, one self-contained HTML page and Markdown out. Never loads a model."""

from temper.report.write import build, built, results

__all__ = ["build", "built", "results"]
