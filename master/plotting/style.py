"""How figures look: fonts that journals embed, colours that colour-blind readers tell apart, and little else."""

from __future__ import annotations

from typing import Any

COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255", "#666666"),
    *("#999933", "#117733", "#CC3311", "#9970AB", "#A6761D", "#66CCBB", "#000000", "#F1A7A0", "#5577DD"),
)
"""Okabe and Ito (2008), without their yellow, then Tol's muted and others between them: 18 before one comes again."""

DASHES: tuple[Any, ...] = (
    "solid",
    (0, (5.0, 1.6)),
    (0, (5.0, 1.4, 1.2, 1.4)),
    (0, (9.0, 1.4, 1.6, 1.4)),
    (0, (8.0, 1.6)),
    (0, (5.0, 1.2, 1.2, 1.2, 1.2, 1.2)),
    (0, (3.0, 1.2)),
)
"""A style of line for each curve: a black and white print still tells them apart. Dots are left to theory."""

MARKERS = "osD^vPX<>*phd"
"""Where there are more curves than `MANY`, each has one here and there besides: 13 x 18 of them come before a pair does
again."""
MANY = 8

INK, GREY, GRID = "#222222", "#777777", "#E4E4E4"
OVERLAY_MARKERS = "osD^v<>P"

RC: Any = {
    "pdf.fonttype": 42,  # TrueType: text in the PDF stays text, as journals ask
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "legend.fontsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 1.8,
    "ytick.minor.size": 1.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
}
