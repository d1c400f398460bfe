"""Papers that published checkpoints belong to, as they are cited."""


def _paper(authors: str, title: str, venue: str, arxiv: str) -> str:
    return f"{authors}, {title}, {venue}, arXiv:{arxiv}"


DINOSAUR = _paper(
    "Seitzer et al.", "Bridging the Gap to Real-World Object-Centric Learning", "ICLR 2023", "2209.14860"
)
FT_DINOSAUR = _paper(
    "Didolkar et al.", "On the Transfer of Object-Centric Representation Learning", "ICLR 2025", "2408.09162"
)
VIDEOSAUR = _paper(
    "Zadaianchuk et al.",
    "Object-Centric Learning for Real-World Videos by Predicting Temporal Feature Similarities",
    "NeurIPS 2023",
    "2306.04829",
)
SLOTCONTRAST = _paper(
    "Manasyan et al.",
    "Temporally Consistent Object-Centric Learning by Contrasting Slots",
    "CVPR 2025",
    "2412.14295",
)
SLOT_ATTENTION = _paper(
    "Locatello et al.", "Object-Centric Learning with Slot Attention", "NeurIPS 2020", "2006.15055"
)
STATM = _paper("Li et al.", "Reasoning-Enhanced Object-Centric Learning for Videos", "KDD 2025", "2403.15245")
SLOTDIFFUSION = _paper(
    "Wu et al.",
    "SlotDiffusion: Object-Centric Generative Modeling with Diffusion Models",
    "NeurIPS 2023",
    "2305.11281",
)
