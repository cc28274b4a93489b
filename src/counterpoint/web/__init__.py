"""The pages: a run or a comparison as one HTML file that needs no network.

Plain data goes in (arrays, dicts, the two dataclasses of :mod:`~counterpoint.web.content`), a string of HTML comes
out. Everything the page shows is inside it: style, script, figures as inline SVG, images as data URIs; a content
security policy in its head forbids it to load anything else. Figures are drawn by hand as SVG rather than with a
plotting library, because then they follow the reader's font, screen width and dark mode, and print sharply.

    page = comparison_page(ComparisonData(name="digits", metric="knn", rows=[...]))
    write("report.html", page)
"""

from counterpoint.web.content import ComparisonData, LeaderboardRow, Prediction, RunData
from counterpoint.web.maps import embedding_map, neighbour_grid
from counterpoint.web.report import comparison_page, run_page, write

__all__ = [
    "ComparisonData",
    "LeaderboardRow",
    "Prediction",
    "RunData",
    "comparison_page",
    "embedding_map",
    "neighbour_grid",
    "run_page",
    "write",
]
