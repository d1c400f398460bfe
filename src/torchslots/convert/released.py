"""Table of the published checkpoints. No row was tested with its published file."""

from collections.abc import Mapping

from torchslots.convert import citations
from torchslots.convert.sources import (
    NOT_STATED,
    AmongHubFiles,
    InArchive,
    InBucket,
    OnHub,
    Released,
)
from torchslots.io.errors import UserError, check_type, nearest


def _licence(code: str) -> str:
    return f"{NOT_STATED} for the file (the authors' code: {code})"


def _weights(count: int) -> str:
    """The size of a file that is known only by the weights in it."""
    return f"{NOT_STATED}; {count:,} weights, {4 * count / 1e6:.0f} MB in float32"


def _videosaur(data: str, recipe: str, figure: str, weights: int, repo: str, path: str) -> Released:
    return Released(
        "VideoSAUR",
        recipe,
        data,
        figure,
        _weights(weights),
        _licence("MIT"),
        citations.VIDEOSAUR,
        OnHub(f"andriizadaianchuk/{repo}", path),
    )


def _slotcontrast(data: str, recipe: str, figure: str, weights: int, path: str) -> Released:
    return Released(
        "SlotContrast",
        recipe,
        data,
        figure,
        _weights(weights),
        _licence("MIT"),
        citations.SLOTCONTRAST,
        OnHub("annamanasyan/slotcontrast", path),
    )


def _ft_dinosaur(recipe: str, figure: str, weights: int, file: str, note: str = "") -> Released:
    """Their files' names end with the first eight digits of the SHA-256."""
    digest = file.rpartition("-")[2].removesuffix(".pth")
    return Released(
        "FT-DINOSAUR",
        recipe,
        "COCO 2017",
        figure,
        _weights(weights),
        _licence("Apache-2.0"),
        citations.FT_DINOSAUR,
        OnHub("mseitzer/ftdinosaur", file, digest),
        note=note,
    )


def _slot_attention(recipe: str, size: str, folder: str, note: str) -> Released:
    return Released(
        "Slot Attention",
        recipe,
        "CLEVR",
        NOT_STATED,
        size,
        _licence("Apache-2.0"),
        citations.SLOT_ATTENTION,
        InBucket("gresearch", f"slot-attention/{folder}"),
        note=note,
    )


def _statm(recipe: str, dataset: str, plus_plus: bool, batch_size: int | None, note: str) -> Released:
    return Released(
        "STATM",
        recipe,
        dataset.upper().replace("_", "-").replace("MOVI", "MOVi"),
        NOT_STATED,
        NOT_STATED,
        NOT_STATED,
        citations.STATM,
        AmongHubFiles("Kang-na/STATM", plus_plus, dataset, batch_size),
        dataset=dataset,
        note=f"Which data sets the repository has is known only once it is asked for its files.{note}",
    )


def _from_archive(system: str, recipe: str, data: str, file: str) -> Released:
    return Released(
        system,
        recipe,
        data,
        NOT_STATED,
        NOT_STATED,
        _licence("MIT"),
        citations.SLOTDIFFUSION,
        InArchive(
            "https://github.com/Wuziyi616/SlotDiffusion/blob/main/docs/benchmark.md#pre-trained-weights",
            "pretrained.zip",
            file,
        ),
        note="" if file in _NAMED_FILES else _UNNAMED,
        is_tokenizer=recipe.startswith("vqvae"),
    )


_NAMED_FILES = (
    "savi_ldm_movie_params-res128.pth",
    "vqvae_movie_params-res128.pth",
    "sa_ldm_clevrtex_params-res128.pth",
    "vqvae_clevrtex_params-res128.pth",
)
"""Files of the archive that the authors' pages name."""
_UNNAMED = "The authors' pages do not name this file: it is named as their configuration is."
_ARCHIVED = (
    ("movi_d", "MOVi-D", "savi_ldm_movid", "vqvae_movid"),
    ("movi_e", "MOVi-E", "savi_ldm_movie", "vqvae_movie"),
    ("movi_solid", "MOVi-Solid", "savi_ldm_movisolid", "vqvae_movisolid"),
    ("movi_tex", "MOVi-Tex", "savi_ldm_movitex", "vqvae_movitex"),
    ("clevrtex", "CLEVRTex", "sa_ldm_clevrtex", "vqvae_clevrtex"),
)
_MOVI = tuple(f"movi_{letter}" for letter in "abcde")
_ROUNDS = " Rounds of slot attention leave no trace in weights: {} is inferred from the batch size stated."

RELEASED: dict[str, Released] = {
    "dinosaur_coco": Released(
        "DINOSAUR",
        "dinosaur_coco_dinov2",
        "COCO 2017",
        "FG-ARI 45.6 mBO 29.6",
        _weights(99_833_601),
        _licence("MIT"),
        citations.DINOSAUR,
        OnHub("andriizadaianchuk/dinosaur_dinov2", "coco_dinosaur_base14_dinov2.ckpt"),
        note="By the VideoSAUR authors, with DINOv2 features; the figure is for masks of 224x224.",
    ),
    "ftdinosaur_small_224": _ft_dinosaur(
        "ftdinosaur_small_224",
        NOT_STATED,
        33_441_153,
        "dinosaur_small_patch14_224_topk3.coco_dv2_ft_s7_300k-fbc7a7c7.pth",
    ),
    "ftdinosaur_small_518": _ft_dinosaur(
        "ftdinosaur_small_518",
        NOT_STATED,
        33_726_081,
        "dinosaur_small_patch14_518_topk3.coco_dv2_ft_s7_300k+10k-d23af290.pth",
    ),
    "ftdinosaur_base_224": _ft_dinosaur(
        "ftdinosaur_base_224",
        NOT_STATED,
        99_833_601,
        "dinosaur_base_patch14_224_topk3.coco_dv2_ft_s7_300k-b617dc95.pth",
    ),
    "ftdinosaur_base_518": _ft_dinosaur(
        "ftdinosaur_base_518",
        NOT_STATED,
        100_118_529,
        "dinosaur_base_patch14_518_topk3.coco_dv2_ft_s7_300k+10k-15486674.pth",
        "A user measured FG-ARI 49.1, mBO 36.4 with it on COCO (issue 4 of the authors' inference code).",
    ),
    "videosaur_movi_c": _videosaur(
        "MOVi-C",
        "videosaur_movi_c",
        "FG-ARI 64.8 mBO 38.9",
        92_147_984,
        "videosaur-movi-c",
        "videosaur-movi-c.ckpt",
    ),
    "videosaur_movi_e": _videosaur(
        "MOVi-E",
        "videosaur_movi_e",
        "FG-ARI 73.9 mBO 35.6",
        92_147_984,
        "videosaur-movi-e",
        "videosaur-movi-e.ckpt",
    ),
    "videosaur_ytvis": _videosaur(
        "YT-VIS 2021",
        "videosaur_ytvis",
        "FG-ARI 39.5 mBO 29.1",
        90_490_756,
        "videosaur-ytvis",
        "videosaur-ytvis.ckpt",
    ),
    "videosaur_ytvis_dinov2": _videosaur(
        "YT-VIS 2021",
        "videosaur_ytvis_dinov2",
        "FG-ARI 39.7 mBO 35.6",
        92_549_209,
        "videosaur-ytvis-dinov2-518",
        "videosaur_dinov2.ckpt",
    ),
    "slotcontrast_movi_c": _slotcontrast(
        "MOVi-C", "slotcontrast_movi_c", "FG-ARI 69.3 mBO 32.7", 25_119_745, "movi_c.ckpt"
    ),
    "slotcontrast_movi_e": _slotcontrast(
        "MOVi-E", "slotcontrast_movi_e", "FG-ARI 82.9 mBO 29.2", 91_531_777, "movi_e.ckpt"
    ),
    "slotcontrast_ytvis": _slotcontrast(
        "YT-VIS 2021", "slotcontrast_ytvis", "FG-ARI 38.0 mBO 33.7", 91_022_017, "ytvis.ckpt"
    ),
    "slot_attention_object_discovery": _slot_attention(
        "slot_attention_clevr6",
        "about 10 MB",
        "object-discovery",
        "Trained on the original CLEVR, not on the version with masks: the paper's figures are not comparable.",
    ),
    "slot_attention_set_prediction": _slot_attention(
        "slot_attention_set_prediction", "about 5 MB", "set-prediction", ""
    ),
    **{
        f"statm_savi_small_{dataset}": _statm("statm_savi_small", dataset, False, None, "")
        for dataset in _MOVI
    },
    **{
        f"statm_savi_plus_plus_{dataset}": _statm(
            "statm_savi_plus_plus", dataset, True, 32, _ROUNDS.format("two")
        )
        for dataset in _MOVI
    },
    **{
        f"statm_savi_{dataset}": _statm("statm_savi", dataset, True, 64, _ROUNDS.format("one"))
        for dataset in _MOVI
    },
    **{
        f"slotdiffusion_{dataset}": _from_archive(
            "SlotDiffusion", f"slotdiffusion_{dataset}", data, f"{model}_params-res128.pth"
        )
        for dataset, data, model, _ in _ARCHIVED
    },
    **{
        f"vqvae_{dataset}": _from_archive(
            "SlotDiffusion's VQ-VAE", f"vqvae_{dataset}", data, f"{tokenizer}_params-res128.pth"
        )
        for dataset, data, _, tokenizer in _ARCHIVED
    },
}
"""Every published checkpoint by its name."""


def list_pretrained(word: str | None = None) -> list[str]:
    """Names of published checkpoints for `load_model` and every command, in the order of `torchslots pretrained list`.

    Args:
        word: Only those that have it in their name, their system or their data; None: all.

    Examples:
        >>> torchslots.list_pretrained("ftdinosaur_base")
        ['ftdinosaur_base_224', 'ftdinosaur_base_518']
    """
    return list(find_released(check_type("word", word or "", str)))


def find_released(word: str = "") -> Mapping[str, Released]:
    """Rows with a word in their name, system or data, whatever the case."""
    return {
        name: row
        for name, row in RELEASED.items()
        if word.lower() in f"{name} {row.system} {row.data}".lower()
    }


def released(name: str) -> Released:
    """The row of a name.

    Raises:
        UserError: there is none; the nearest names are given.
    """
    if check_type("name", name, str) not in RELEASED:
        see = "`torchslots pretrained list` shows all."
        hint = nearest(name, RELEASED, otherwise=see)
        raise UserError(
            f"There is no published checkpoint `{name}`. {hint}{'' if hint == see else f' {see}'}"
        )
    return RELEASED[name]
