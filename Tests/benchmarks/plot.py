"""Bars as SVG: no library, so that the plots can be made wherever the benchmarks run."""
import html

BAR, GAP, LABEL, WIDTH = 16, 6, 190, 860
COLOURS = {"sluice": "#1f6feb", "bare": "#6e7781"}
OTHER = "#bf8700"


def charts(document):
    """A file for each workload: name to text."""
    by_workload = {}
    for figure in document["figures"]:
        by_workload.setdefault(figure["workload"], []).append(figure)
    return {workload.replace(" ", "-") + ".svg": chart(workload, figures)
            for workload, figures in by_workload.items()}


def chart(title, figures):
    """Throughput of one workload: a bar for each contender, with a line from the least to the most."""
    most = max(figure["iopsMost"] for figure in figures)
    height = 44 + len(figures) * (BAR + GAP)
    scale = (WIDTH - LABEL - 110) / most
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
             f'font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
             f'<text x="8" y="20" font-size="14">{html.escape(title)}, I/Os per second</text>']
    for number, figure in enumerate(figures):
        top = 34 + number * (BAR + GAP)
        colour = COLOURS.get(figure["contender"].split()[0], OTHER)
        middle = top + BAR / 2
        parts += [
            f'<text x="{LABEL - 8}" y="{top + 12}" text-anchor="end">{html.escape(figure["contender"])}</text>',
            f'<rect x="{LABEL}" y="{top}" width="{figure["iops"] * scale:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<line x1="{LABEL + figure["iopsLeast"] * scale:.1f}" x2="{LABEL + figure["iopsMost"] * scale:.1f}" '
            f'y1="{middle}" y2="{middle}" stroke="black"/>',
            f'<text x="{LABEL + figure["iopsMost"] * scale + 6:.1f}" y="{top + 12}">{figure["iops"]:,.0f}</text>']
    return "\n".join([*parts, "</svg>"]) + "\n"
