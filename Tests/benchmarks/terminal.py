#!/usr/bin/env python3
"""Draws what a command has written to a terminal as SVG: bold, dim, and nothing else. No library.

    Deploy/demo.sh | Tests/benchmarks/terminal.py --title 'make demo' >docs/demo.svg
"""
import argparse
import html
import re
import sys

CHARACTER, LINE, MARGIN, BAR = 7.23, 16, 14, 28
STYLES = {"1": 'font-weight="bold" fill="#ffffff"', "2": 'fill="#79c0ff"'}


def spans(line):
    """The parts of a line with the style of each."""
    style, parts = "", []
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if code := re.fullmatch(r"\x1b\[([0-9;]*)m", part):
            style = STYLES.get(code[1], "")
        elif part:
            parts.append((style, part))
    return parts


def draw(lines, title, columns):
    width = 2 * MARGIN + columns * CHARACTER
    height = BAR + len(lines) * LINE + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" font-size="12" '
        'font-family="ui-monospace, Menlo, Consolas, \'DejaVu Sans Mono\', monospace">',
        f'<rect width="{width:.0f}" height="{height}" rx="8" fill="#0d1117"/>',
        f'<text x="{MARGIN}" y="19" fill="#8b949e">{html.escape(title)}</text>']
    for number, line in enumerate(lines):
        text = "".join(f"<tspan {style}>{html.escape(part)}</tspan>" if style else html.escape(part)
                       for style, part in spans(line))
        if text:
            parts.append(f'<text x="{MARGIN}" y="{BAR + (number + 1) * LINE - 4}" fill="#c9d1d9" '
                         f'xml:space="preserve">{text}</text>')
    return "\n".join([*parts, "</svg>", ""])


def cut(line, columns):
    """The line without what goes beyond the last column; styles take no room."""
    result, left = "", columns
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if part.startswith("\x1b"):
            result += part
        else:
            result += part if len(part) <= left else part[:max(0, left - 1)] + "…" * (left > 0)
            left = max(0, left - len(part))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--title", default="", help="what stands above the lines")
    parser.add_argument("--columns", type=int, default=110, help="lines are cut there")
    parser.add_argument("--leave-out", default="$^", help="lines that match are not drawn")
    options = parser.parse_args()
    lines = [line.rstrip("\n") for line in sys.stdin]
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    kept = [cut(line, options.columns) for line, text in zip(lines, plain) if not re.search(options.leave_out, text)]
    while kept and not kept[0]:
        kept.pop(0)
    sys.stdout.write(draw(kept, options.title, options.columns))


main()
