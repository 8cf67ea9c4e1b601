"""Flowcharts of Mermaid as nested boxes: they need no script, follow the page's colours and fit a phone.

Read is the part of the language that docs/ uses: labelled nodes, subgraphs, and arrows, dotted ones with a text perhaps.
Siblings stand below each other where an arrow leads from one to the next, else side by side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

FENCE = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NODE = re.compile(r'(\w+)(?:\["?(.*?)"?\])?')
ARROW = re.compile(r'(.+?) (?:-->|-\.(?: "(.*?)" \.)?->) (.+)')


@dataclass
class Box:
    """A node, or a group of them."""

    label: str = ""
    inside: dict[str, Box] = field(default_factory=dict)

    def holds(self, name: str) -> bool:
        """Whether a node of that name is somewhere in it."""
        return name in self.inside or any(box.holds(name) for box in self.inside.values())

    @property
    def name(self) -> str:
        """What is bold in the label."""
        bold = re.search(r"<b>(.*?)</b>", self.label)
        return bold[1] if bold else self.label


def drawn(markdown: str) -> str:
    """A page with HTML in place of its flowcharts.

    Raises:
        ValueError: a line that is not understood.
    """
    return FENCE.sub(lambda found: _html(found[1]), markdown)


def _html(text: str) -> str:
    root, arrows, dotted, every = Box(), set[tuple[str, str]](), dict[str, list[str]](), dict[str, Box]()
    open_ = [root]
    for line in filter(None, map(str.strip, text.splitlines()[1:])):
        if line == "end":
            open_.pop()
        elif line.startswith("subgraph "):
            open_.append(_node(line.removeprefix("subgraph ").replace(" [", "["), open_[-1], every))
        elif arrow := ARROW.fullmatch(line):
            source, said, target = arrow.groups()
            for end in (source, target):
                _node(end, open_[-1], every)
            ends = [NODE.match(end)[1] for end in (source, target)]  # type: ignore[index]  # matched above
            if " -." in line:
                dotted.setdefault(ends[0], []).append(ends[1])
                dotted[ends[0]] += [said] if said else []
            else:
                arrows.add((ends[0], ends[1]))
        else:
            _node(line, open_[-1], every)
    notes = "".join(
        f"<p>{every[one].name} ⇢ {'; '.join(every[t].name if t in every else t for t in all_)}</p>"
        for one, all_ in dotted.items()
    )
    return f'<div class="boxes">{_inside(root, arrows)}{notes}</div>'


def _node(text: str, within: Box, every: dict[str, Box]) -> Box:
    """The node or group that a piece of a line names, put where it is given its label."""
    found = NODE.fullmatch(text)
    if not found:
        raise ValueError(f"website/boxes.py does not understand the flowchart at {text!r}")
    name, label = found.groups()
    if label is not None:
        every[name] = within.inside[name] = Box(label)
    return every.get(name, within)


def _inside(box: Box, arrows: set[tuple[str, str]]) -> str:
    rows: list[list[str]] = []
    for name in box.inside:
        before = rows[-1][-1] if rows else ""
        if not before or any(_has(box, before, a) and _has(box, name, b) for a, b in arrows):
            rows.append([name])
        else:
            rows[-1].append(name)
    lines = ["".join(_shown(box.inside[name], arrows) for name in row) for row in rows]
    return '<div class="arrow">↓</div>'.join(f'<div class="row">{line}</div>' for line in lines)


def _has(box: Box, name: str, node: str) -> bool:
    return node == name or box.inside[name].holds(node)


def _shown(box: Box, arrows: set[tuple[str, str]]) -> str:
    if not box.inside:
        return f'<div class="box">{box.label}</div>'
    return f'<div class="box group"><div class="title">{box.label}</div>{_inside(box, arrows)}</div>'
