#!/usr/bin/env python3
"""picture.py < OUTPUT > docs/images/peers.svg: what transformers, llama.cpp and nibble wrote in a run of `make peers`.

Takes the models' names and the lines `  WHO  'TEXT'` out of the output; leaves out the BF16 rows.
"""
import ast
import html
import re
import sys

WIDTH, LINE, LEFT, TEXT_AT, MOST = 1010, 20, 16, 150, 106
COLOURS = {"transformers": "#8250df", "nibble": "#0969da", "llama.cpp": "#bc4c00"}


def rows_of(output):
    model = None
    for line in output:
        said = re.fullmatch(r"  (\S.*?)  +('.*'|\".*\")\n?", line)
        if re.fullmatch(r"\w+\n", line):
            model = line.strip()
        elif said and model and "bf16" not in said[1]:
            yield model, said[1].removesuffix(" .nvfp4"), ast.literal_eval(said[2]).replace("\n", "\u23ce")


def main():
    rows, seen = list(rows_of(sys.stdin)), None
    y, parts = 30, []
    for model, who, text in rows:
        if model != seen:
            y += 10 if seen else 0
            parts.append(f'<text x="{LEFT}" y="{y}" font-weight="bold" fill="#1f2328">{model}</text>')
            seen, y = model, y + LINE
        parts.append(f'<text x="{LEFT + 12}" y="{y}" fill="{COLOURS[who.split()[0]]}">{html.escape(who)}</text>')
        for at in range(0, max(len(text), 1), MOST):
            parts.append(f'<text x="{TEXT_AT}" y="{y}" fill="#1f2328">{html.escape(text[at: at + MOST])}</text>')
            y += LINE
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" '
          f'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13" xml:space="preserve">')
    print(f'<rect width="{WIDTH}" height="{y}" rx="8" fill="#f6f8fa" stroke="#d1d9e0"/>')
    print("\n".join(parts))
    print("</svg>")
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
