"""What others publish on the benchmarks' protocols, and what they are recognised by. Sources stand in each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

STRICT, REFIT, TIME_SPLIT = "strict", "refit", "time split"


@dataclass(frozen=True)
class Published:
    """One row of somebody else's table."""

    system: str
    protocol: str
    recall: float  # HR@10, which is recall@10 where there is one label
    ndcg: float
    source: str


@dataclass(frozen=True)
class Known:
    """A data set that is recognised by its counts."""

    title: str
    n_users: int
    n_items: int
    n_interactions: int
    popularity: tuple[float, float] | None  # recall@10 and NDCG@10 of the strict popularity row, of training rows only
    rows: Sequence[Published]


BEAUTY = Known(
    "Amazon Beauty (S3-Rec's file)",
    22_363,
    12_101,
    198_502,
    (0.0120, 0.0056),
    [
        Published("SASRec, full cross-entropy", STRICT, 0.0897, 0.0539, "public rerun"),
        Published("SASRec, sampled softmax", STRICT, 0.0921, 0.0531, "Tikhonovich et al. 2025, eSASRec"),
        Published("eSASRec", STRICT, 0.0928, 0.0523, "Tikhonovich et al. 2025"),
        Published("BARGE", STRICT, 0.0927, 0.0547, "its paper"),
        Published("BSARec", STRICT, 0.1008, 0.0611, "Shin et al., AAAI 2024, its log"),
        Published("WEARec", STRICT, 0.1016, 0.0599, "rerun in arXiv 2511.07028"),
        Published("FADE-0.6B (item texts, GPU)", STRICT, 0.1088, 0.0616, "draft, one seed"),
    ],
)
ML_1M = Known(
    "MovieLens 1M",
    6_040,
    3_706,
    1_000_209,
    None,
    [
        Published("MF-BPR", STRICT, 0.0740, 0.0377, "Petrov & Macdonald 2023"),
        Published("SASRec, binary cross-entropy", STRICT, 0.1993, 0.1078, "Petrov & Macdonald 2023"),
        Published("GRU4Rec, cross-entropy", STRICT, 0.2641, 0.1491, "Petrov & Macdonald 2023"),
        Published("BERT4Rec", STRICT, 0.2821, 0.1516, "Petrov & Macdonald 2023"),
        Published("gSASRec", STRICT, 0.3003, 0.1726, "Petrov & Macdonald 2023"),
        Published("SASRec, softmax", STRICT, 0.3058, 0.1779, "Tikhonovich et al. 2025"),
        Published("eSASRec", STRICT, 0.3133, 0.1772, "Tikhonovich et al. 2025"),
        Published("HSTU, large", REFIT, 0.3294, 0.1893, "Zhai et al. 2024"),
        Published("HSTU, mixture of logits", REFIT, 0.3412, 0.1979, "Ding & Zhai 2025"),
    ],
)
SETS = (BEAUTY, ML_1M)
SESSIONS: Sequence[Mapping[str, object]] = [  # RetailRocket's sessions, each on a split of its own
    {"system": "STAN", "HR@20": 0.5938, "MRR@20": 0.3638, "origin": "published: Garg et al. 2019, five slices"},
    {"system": "DHCN", "HR@20": 0.6220, "MRR@20": 0.3749, "origin": "published: Xia et al. 2021"},
]
CLICKS: Sequence[Mapping[str, object]] = [  # Frappe, training negatives as published
    {"system": "LR", "AUC": 0.9356, "log loss": None, "origin": "published: BARS, Zhu et al. 2022"},
    {"system": "DeepFM", "AUC": 0.9840, "log loss": 0.1495, "origin": "published: BARS, five seeds, sd 0.0002"},
    {"system": "FinalMLP", "AUC": 0.9861, "log loss": 0.1484, "origin": "published: Mao et al. 2023, rerun of BARS"},
    {"system": "SimCEN", "AUC": 0.9856, "log loss": 0.1351, "origin": "published: its paper, 2024"},
    {"system": "QNN", "AUC": 0.98626, "log loss": 0.1380, "origin": "published: its paper"},
]
ONLINE: Sequence[Mapping[str, object]] = [  # trained on one period, tested on the next
    {"system": "incremental update", "AUC": 0.8180, "origin": "published: Peng et al. 2021, Tmall"},
    {"system": "incremental update with replay", "AUC": 0.8187, "origin": "published: Peng et al. 2021, Tmall"},
    {"system": "ASMG", "AUC": 0.8289, "origin": "published: Peng et al. 2021, Tmall"},
]


def recognised(n_users: int, n_items: int, n_interactions: int) -> Known | None:
    """The known data set with these counts."""
    counts = (n_users, n_items, n_interactions)
    return next((one for one in SETS if (one.n_users, one.n_items, one.n_interactions) == counts), None)


def rows_of(known: Known | None) -> list[Mapping[str, object]]:
    """The published rows as a table's."""
    return [
        {"system": row.system, "protocol": row.protocol, "recall@10": row.recall, "ndcg@10": row.ndcg,
         "origin": f"published: {row.source}"}
        for row in (known.rows if known else ())
    ]  # fmt: skip
