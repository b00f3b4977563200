"""One page per mechanism and the table of all, made from ``saccade/attention`` and the measurements in ``zoo.md``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mechanism_files import MechanismFile, mechanism_files, paragraphs
from mkdocs.structure.files import File, Files
from placement import drawing

MARKER = "<!-- mechanisms -->"
NETWORKS = ("ResNet-18", "ResNet-50", "MobileNetV2")
COSTS = ("sites", "parameters (M)", "MACs (G)", "latency", "memory", "training step")
KINDS = {
    "gate": "multiplies the map by a gate, y = x · g(x)",
    "context": "adds a context to the map, y = x + c(x)",
    "transform": "computes another map of the same shape",
    "conv": "replaces a convolution",
}
EVIDENCE = {
    "oracle": "Output and gradients equal those of the authors' code.",
    "port": "Output and gradients equal those of code by others; the authors' code is not public or not in PyTorch.",
    "paper": "It follows the printed equations.",
    "reading": "It is our reading of a description; no code was published.",
}
PLACES = {
    "residual": "at the end of each residual branch, before the addition",
    "block": "after each block",
    "conv3x3": "behind the 3×3 convolution of each block",
    "activated": "behind the 3×3 convolution of each block, its norm and its activation",
    "expanded": "on the widened map of each inverted residual",
    "conv_stem": "at the first convolution",
    "skip": "where a decoder's upsampled map and a map from the way down are concatenated",
}

STAGES = {
    None: "after each stage",
    "[:-1]": "after each stage but the last",
    "[1:-1]": "after the inner stages",
    "[-1]": "after the last stage",
    "[-2]": "after the last stage but one",
    "[-3]": "after the third stage from the end",
}
DECODER_MAPS = {
    None: "after each resolution of the decoder",
    "[-4]": "on the decoder's map of an eighth of the image's resolution",
}
DECODER_LEVELS = {"[:-3]": " up to an eighth of the image's resolution"}
REPLACED_STAGES = {None: "", "[-1:]": " of the last stage", "[-3:]": " of the last three stages"}
UNITS = {None: "", "[last]": ", in the last block of each stage", "[first]": ", in the first block of each stage"}


def on_config(config: Any) -> Any:
    """Add the pages to the navigation, below "Mechanisms"."""
    for section in config["nav"]:
        if "Mechanisms" in section:
            section["Mechanisms"] += [{file.name: f"mechanisms/{file.name}.md"} for file in mechanism_files()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add one page per mechanism."""
    tables = measured_tables(Path(config["docs_dir"]) / "zoo.md")
    for file in mechanism_files():
        files.append(File.generated(config, f"mechanisms/{file.name}.md", content=mechanism_page(file, tables)))
    return files


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Put the table of all mechanisms where the page has the marker."""
    if MARKER not in markdown:
        return markdown
    tables = measured_tables(Path(config["docs_dir"]) / "zoo.md")
    return markdown.replace(MARKER, index_table(mechanism_files(), tables))


def measured_tables(page: Path) -> dict[str, dict[str, list[dict[str, str]]]]:
    """Return the tables of a page: heading to mechanism to rows, each row column to cell."""
    tables: dict[str, dict[str, list[dict[str, str]]]] = {}
    for section in re.split(r"^#+ ", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        heading, _, text = section.partition("\n")
        table = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
                 for line in text.splitlines() if line.startswith("|")]  # fmt: skip
        for row in table[2:]:
            name = row[0].strip("`")
            tables.setdefault(heading, {}).setdefault(name, []).append(dict(zip(table[0], row, strict=True)))
    return tables


def index_table(files: list[MechanismFile], tables: Any) -> str:
    """Return one row per mechanism."""
    lines = ["| name | mechanism | year | kind | evidence | position | parameters | latency |",
             "|---|---|--:|---|---|---|--:|--:|"]  # fmt: skip
    for file in files:
        spec, cost = file.spec, (tables["ResNet-50"].get(file.name) or [{}])[0]
        year = (spec.get("paper") or {}).get("year", "–")
        size = f"{cost['parameters (M)']} M" if cost.get("parameters (M)") else "–"
        lines.append(
            f"| [`{file.name}`](mechanisms/{file.name}.md) | {spec['title']} | {year} | {spec['kind']} | "
            f"{spec['evidence']} | `{spec['position']['default']}` | {size} | {cost.get('latency') or '–'} |"
        )
    return "\n".join(lines)


def mechanism_page(file: MechanismFile, tables: Any) -> str:
    """Return the page of one mechanism as Markdown."""
    spec = file.spec
    first, _, rest = file.docstring.partition("\n\n")
    sentence = " ".join(first.replace("``", "`").split()).rpartition(": ")[2]
    lines = [f"# {spec['title']}", "", *_facts(file), "", sentence[:1].upper() + sentence[1:], ""]
    lines += [*_place(file), "", *_usage(file), ""]
    lines += ["## Equations and shapes", "", *_equations(rest), ""]
    lines += [*_source(spec, rest), "", "## Options", "", *_options(file), "", *_properties(file), ""]
    lines += ["## Cost", "", *_cost(file.name, tables), ""]
    published = tables.get("Published sizes", {}).get(file.name)
    if published:
        lines += ["## Published numbers", "", *_published(published), ""]
    return "\n".join(lines)


def _facts(file: MechanismFile) -> list[str]:
    names = sorted({file.stem, *file.spec.get("aliases", ())} - {file.name})
    also = f" (also {', '.join(f'`{name}`' for name in names)})" if names else ""
    paper = file.spec.get("paper")
    venue = f" · {paper['venue']} {paper['year']}" if paper else ""
    return [f"`{file.name}`{also} · {KINDS[file.spec['kind']]}{venue}", "{ .facts }"]


def _place(file: MechanismFile) -> list[str]:
    is_conv = file.spec["kind"] == "conv"
    lines = [drawing(file.name, file.spec["position"]["default"], is_conv), ""]
    for host, position in file.spec["position"].items():
        positions = [position] if isinstance(position, str) else position
        places = " and ".join(_place_at(part, is_conv) for part in positions)
        network = "By default" if host == "default" else f"In {host}"
        lines.append(f"{network} it {'replaces' if is_conv else 'stands'} {places}: `where={json.dumps(position)}`.")
    return lines


def _place_at(position: str, is_conv: bool) -> str:
    base, suffix, half, stages = re.fullmatch(  # type: ignore[union-attr]
        r"(\w+)(\[.*?\])?(?: in (stage|decoder)(\[.*\])?)?", position
    ).groups()
    if half == "decoder" and base == "block":
        return "after each block of the decoder"
    if half == "decoder":
        return f"the 3×3 convolutions of the decoder's blocks{DECODER_LEVELS.get(stages, f', of its levels {stages}')}"
    if is_conv:
        where = "the first convolution" if base == "conv_stem" else "the 3×3 convolutions of the blocks"
        return f"{where}{REPLACED_STAGES.get(stages, f', of the stages {stages}')}"
    if base == "stage":
        return STAGES.get(suffix, f"after the stages {suffix}")
    if base == "decoder":
        return DECODER_MAPS.get(suffix, f"on the decoder's maps {suffix}")
    return f"{PLACES[base]}{UNITS.get(suffix, f', of the units {suffix}')}"


def _usage(file: MechanismFile) -> list[str]:
    verb = "replace" if file.spec["kind"] == "conv" else "plug"
    return ["```python", f'saccade.{verb}(model, "{file.name}")', "```", "",
            "```console", f"$ saccade compare --attention none,{file.name}", "```"]  # fmt: skip


def _equations(text: str) -> list[str]:
    """Return the docstring without its source: equations as they are, sentences as Markdown."""
    lines: list[str] = []
    for indented, block in paragraphs(text):
        if block.startswith("Source:"):
            continue
        lines += (
            ["```text", _align_numbers(block), "```", ""]
            if indented
            else [re.sub(r"\*(?= )|(?<= )\*", "·", block.replace("``", "`")), ""]
        )
    return lines


def _align_numbers(block: str) -> str:
    """Move the equation numbers of a block to the left, as close as its longest line allows: the page is narrow."""
    rows = [re.fullmatch(r"(.*?) {3,}(eqs?\. [\d, –-]+|\(\d+\))", line) for line in block.split("\n")]
    width = max((len(row[1]) for row in rows if row), default=0) + 3
    lines = zip(block.split("\n"), rows, strict=True)
    return "\n".join(f"{row[1]:<{width}}{row[2]}" if row else line for line, row in lines)


def _source(spec: dict[str, Any], docstring: str) -> list[str]:
    lines = ["## Source and evidence", ""]
    paper = spec.get("paper")
    if paper:
        link = f", [arXiv:{paper['arxiv']}](https://arxiv.org/abs/{paper['arxiv']})" if paper.get("arxiv") else ""
        lines.append(f"{paper['authors']}: *{paper['title']}*, {paper['venue']} {paper['year']}{link}.\n")
    else:
        lines += [block.replace("``", "`") + "\n" for _, block in paragraphs(docstring) if block.startswith("Source:")]
    lines.append(f"Evidence: **{spec['evidence']}**. {EVIDENCE[spec['evidence']]}")
    for entry in spec.get("code", ()):
        name, _, options = entry.partition(" ")
        lines.append(f"\nCompared with [{name}](https://github.com/{name}){f' {options}' if options else ''}.")
    return lines


def _options(file: MechanismFile) -> list[str]:
    if not file.options:
        return ["None."]
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for option in file.options:
        choices = f" One of {', '.join(f'`{word}`' for word in option.choices)}." if option.choices else ""
        meaning = (option.meaning.replace("``", "`") + choices).strip().replace("|", "\\|")
        lines.append(f"| `{option.name}` | `{option.default}` | {meaning} |")
    limits = file.spec.get("limits", ())
    if limits:
        lines += ["", f"Limits: {'; '.join(limits)}."]
    return lines


def _properties(file: MechanismFile) -> list[str]:
    spec = file.spec
    symmetries, gate, neutral = spec.get("equivariant", ()), spec.get("gate"), spec.get("neutral", False)
    start = {True: "yes", False: "no; `saccade.plug` adds a factor that starts at 0"}.get(neutral, str(neutral))
    if spec["kind"] == "conv" and neutral is False:
        start = "no"
    interval = gate if isinstance(gate, str) else f"({gate[0]:g}, {gate[1]:g})" if gate else "no gate"
    if not isinstance(symmetries, str):
        symmetries = ", ".join(symmetries) or "no permutation of pixels, flip or transposition"
    rows = {
        "gate lies in": interval,
        "commutes with": symmetries,
        "is the identity at its own initialisation": start,
        "needs": ", ".join(spec.get("needs", ())) or "only the channel count",
    }
    lines = ["## Properties", "", "| property | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in rows.items()]
    if file.count:
        lines += ["", "Learnable parameters:", "", "```python", file.count, "```"]
    return lines


def _cost(name: str, tables: Any) -> list[str]:
    lines = [f"| network | {' | '.join(COSTS)} |", "|---|" + "--:|" * len(COSTS)]
    refusals = []
    for network in NETWORKS:
        for row in tables[network].get(name, ()):
            if row["position"].startswith("refused"):
                refusals.append(f"{network}: {row['position']}.")
            else:
                cells = (
                    row[key] for key in ("sites", "parameters (M)", "MACs (G)", "latency", "memory", "training step")
                )
                lines.append(f"| {network} | {' | '.join(cells)} |")
    if len(lines) == 2:
        return ["Not measured yet: `python benchmarks/catalogue.py` does it."]
    lines += ["", "Latency, memory and training step are multiples of the plain network's; [how they were measured]"
              "(../zoo.md).", *(f"\n{text}" for text in refusals)]  # fmt: skip
    for row in tables.get("Growth with the map", {}).get(name, ()):
        lines += ["", f"From 28×28 to 112×112 pixels the time of a forward pass grows {row['time']}, the memory of a "
                  f"training step {row['memory']}."]  # fmt: skip
    return lines


def _published(rows: list[dict[str, str]]) -> list[str]:
    head = [key for key in rows[0] if key != "mechanism"]
    cells = [" | ".join(row[key] for key in head) for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {row} |" for row in cells)]
