"""A bar chart of one contest as SVG, readable on light and on dark ground.

Guarantees: bars begin at nought; the line across a bar's end goes from the least to the most of its rounds.
"""

from html import escape

from .figures import Contest, number

WIDTH, LEFT, RIGHT, ROW, TOP = 860, 250, 130, 34, 64
STYLE = """
    text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
    .title { font-size: 15px; font-weight: 600; }
    .quiet { fill: #59636e; font-size: 12px; }
    .tenantry { fill: #0969da; } .peer { fill: #afb8c1; } .floor { fill: none; stroke: #818b98; stroke-dasharray: 4 3; }
    .spread { stroke: #1f2328; stroke-width: 1.5; }
    @media (prefers-color-scheme: dark) {
        text { fill: #f0f6fc; } .quiet { fill: #9198a1; }
        .tenantry { fill: #4493f8; } .peer { fill: #59636e; } .floor { stroke: #9198a1; } .spread { stroke: #f0f6fc; }
    }
"""


def draw(contest: Contest) -> str:
    """The chart; sides without values are left out."""
    sides = contest.measured()
    height = TOP + ROW * len(sides) + 10
    most = max(max(side.values) for side in sides)
    scale = (WIDTH - LEFT - RIGHT) / most
    better = "less is better" if contest.less_is_better else "more is better"
    rows = [row(side, TOP + ROW * index, scale) for index, side in enumerate(sides)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
            f"<title>{escape(contest.title)}</title>",
            f"<style>{STYLE}</style>",
            f'<text class="title" x="16" y="26">{escape(contest.title)}</text>',
            f'<text class="quiet" x="16" y="46">{contest.unit}: {better}; bar: median of the rounds, line: least to most</text>',
            *rows,
            "</svg>\n",
        ]
    )


def row(side, y: int, scale: float) -> str:
    middle = y + ROW // 2
    least, most = LEFT + min(side.values) * scale, LEFT + max(side.values) * scale
    return "\n".join(
        [
            f'<text x="{LEFT - 10}" y="{middle + 4}" text-anchor="end">{escape(side.name)}</text>',
            f'<rect class="{side.kind}" x="{LEFT}" y="{y + 7}" width="{max(side.median * scale, 1):.1f}" height="{ROW - 14}" rx="2"/>',
            f'<path class="spread" d="M{least:.1f} {middle}H{most:.1f}M{least:.1f} {middle - 4}v8M{most:.1f} {middle - 4}v8"/>',
            f'<text x="{max(most, LEFT + side.median * scale) + 8:.1f}" y="{middle + 4}">{number(side.median)}</text>',
        ]
    )
