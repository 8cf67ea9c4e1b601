"""The paper's speeds beside those of a report: ``python benchmarks/paper.py bench/report.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

# N → seconds of a batch of 64 without the decoder on an NVIDIA L20 (arXiv 2411.17787); 10 is VAR-d30 alone
PUBLISHED = {10: 3.62, 9: 2.97, 8: 2.11, 7: 1.60, 6: 1.27}
BATCH = 64


def main() -> None:
    report = json.loads(Path(sys.argv[1]).read_text())
    rows = [row for row in report["rows"] if row["setting"]["batch"] == BATCH]
    if not rows:
        sys.exit(f"{sys.argv[1]} has no batch of {BATCH}; run trt-var bench --batch {BATCH}")
    columns = sorted({(row["setting"]["engines"], row["setting"]["backend"]) for row in rows})
    print(f"Seconds for {BATCH} images, decoder left out; {report['machine']}")
    print("| N | published, L20 | " + " | ".join(f"{Path(engines).name}, {backend}" for engines, backend in columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    for n_draft, published in PUBLISHED.items():
        chosen = [row for row in rows if row["setting"]["n_draft"] == n_draft]
        found = {(row["setting"]["engines"], row["setting"]["backend"]): row["total"] - row["decoder"] for row in chosen}
        cells = (f"{found[column]:.2f}" if column in found else "–" for column in columns)
        print(f"| {n_draft} | {published} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
