"""How to cite a number: the tool at its version, and the papers whose definitions of 'unchanged' the numbers follow."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.models import Pair
from analysis.provenance import VERSION


@dataclass(frozen=True)
class Paper:
    key: str
    authors: str  # as BibTeX has them
    title: str
    arxiv: str
    year: int
    short: str  # as a sentence has the authors


# Which paper defined a rule. The exact rule and plain tolerances are nobody's own.
PAPER_OF_RULE = {
    "mukherjee": Paper(
        "mukherjee2025subnetworks",
        'Mukherjee, Sagnik and Yuan, Lifan and Hakkani-T{\\"u}r, Dilek and Peng, Hao',
        "Reinforcement Learning Finetunes Small Subnetworks in Large Language Models",
        "2505.11711",
        2025,
        "Mukherjee et al.",
    ),
    "bf16": Paper(
        "zhu2025path",
        "Zhu, Hanqing and Zhang, Zhenyu and Huang, Hanxian and Su, DiJia and Liu, Zechun and Zhao, Jiawei and "
        "Fedorov, Igor and Pirsiavash, Hamed and Sha, Zhizhou and Lee, Jinwon and Pan, David Z. and "
        "Wang, Zhangyang and Tian, Yuandong and Tai, Kai Sheng",
        "The Path Not Taken: RLVR Provably Learns Off the Principals",
        "2511.08567",
        2025,
        "Zhu et al.",
    ),
}


def sentence(pair: Pair, code: str) -> str:
    """One line to put under a figure: what was measured, at which commits, with what."""
    compared = f"{pair.tuned.title} at {pair.tuned.short_commit} against {pair.base.title} at {pair.base.short_commit}"
    papers = "; ".join(f"{paper.short} {paper.year}, arXiv:{paper.arxiv}" for paper in PAPER_OF_RULE.values())
    return f"{compared}, measured with {_tool(code)}. Rules of 'unchanged': {papers}."


def bibtex(code: str, year: int) -> str:
    """The tool and the papers as BibTeX entries."""
    note = f"Version {VERSION}" + (f", commit {code}" if code else "")
    tool = _entry(
        "software",
        "subnetscope",
        {
            "title": "{Subnetscope}: what fine-tuning did to a language model's weights",
            "author": "{The Subnetscope developers}",
            "version": VERSION,
            "year": str(year),
            "note": note,
        },
    )
    return "\n\n".join([tool, *map(_paper, PAPER_OF_RULE.values())])


def _tool(code: str) -> str:
    return f"Subnetscope {VERSION}" + (f" ({code[:7]}{'-dirty' if code.endswith('-dirty') else ''})" if code else "")


def _paper(paper: Paper) -> str:
    fields = {"title": f"{{{paper.title}}}", "author": paper.authors, "year": str(paper.year)}
    fields |= {"eprint": paper.arxiv, "archivePrefix": "arXiv", "journal": f"arXiv preprint arXiv:{paper.arxiv}"}
    return _entry("article", paper.key, fields)


def _entry(kind: str, key: str, fields: dict[str, str]) -> str:
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return f"@{kind}{{{key},\n{lines}}}"
