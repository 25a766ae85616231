"""Bars and curves as SVG: no library, so that the plots can be made wherever the benchmarks run."""
import html
import math

BAR, GAP, LABEL, WIDTH = 16, 6, 190, 860
COLOURS = {"sluice": "#1f6feb", "bare": "#6e7781"}
OTHER = "#bf8700"
LINES = ("#1f6feb", "#bf8700", "#1a7f37", "#cf222e", "#6e7781")
# The smallest value that a curve shows.
LEAST = 0.1


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


def curves(title, steps, names):
    """How several figures grow with `count`, both axes logarithmic: a line for each, its last value beside it."""
    left, top, width, height = 60, 40, 480, 300
    values = [max(step[name], LEAST) for name in names for step in steps]
    counts = [step["count"] for step in steps]

    def scale(value, least, most, length):
        return length * math.log(value / least) / math.log(most / least) if most > least else 0

    def x(count):
        return left + scale(count, counts[0], counts[-1], width)

    def y(value):
        return top + height - scale(max(value, LEAST), floor, ceiling, height)

    floor, ceiling = (10.0 ** edge for edge in (
        math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))))
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top + height + 40}" '
             f'font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{top + height + 40}" fill="white"/>',
             f'<text x="8" y="20" font-size="14">{html.escape(title)}</text>']
    for power in range(round(math.log10(floor)), round(math.log10(ceiling)) + 1):
        at = y(10.0 ** power)
        parts += [f'<line x1="{left}" x2="{left + width}" y1="{at:.1f}" y2="{at:.1f}" stroke="#d0d7de"/>',
                  f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{10.0 ** power:g}</text>']
    parts += [f'<text x="{x(count):.1f}" y="{top + height + 18}" text-anchor="middle">{count:,}</text>' for count in counts]
    # Labels that would lie on each other are moved apart.
    label = None
    for name, colour in sorted(zip(names, LINES), key=lambda pair: y(steps[-1][pair[0]])):
        points = " ".join(f"{x(step['count']):.1f},{y(step[name]):.1f}" for step in steps)
        label = y(steps[-1][name]) if label is None else max(label + 14, y(steps[-1][name]))
        parts += [f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>',
                  f'<text x="{left + width + 8}" y="{label + 4:.1f}" fill="{colour}">{html.escape(names[name])}: '
                  f'{steps[-1][name]:,.1f}</text>']
    return "\n".join([*parts, "</svg>"]) + "\n"
