"""What is known of a published checkpoint, and the kinds of places where they lie.

A fact that no publication states is `NOT_STATED`, never a guess.
"""

from dataclasses import dataclass

NOT_STATED = "not stated"


@dataclass(frozen=True)
class OnHub:
    """A file in a repository on the Hugging Face hub.

    Args:
        sha256: its first digits, where they are published.
    """

    repo: str
    path: str
    sha256: str = ""


@dataclass(frozen=True)
class AmongHubFiles:
    """A flax file in a repository on the hub whose file names are not published: found by words in its path.

    Args:
        plus_plus: whether it is the large model.
        dataset: which it was trained on, such as `movi_a`.
        batch_size: in training; None: any.
    """

    repo: str
    plus_plus: bool
    dataset: str
    batch_size: int | None = None


@dataclass(frozen=True)
class InBucket:
    """A TensorFlow checkpoint in a folder of a public bucket of Google Cloud Storage."""

    bucket: str
    prefix: str


@dataclass(frozen=True)
class InArchive:
    """A file in an archive that only a browser can download.

    Args:
        page: the authors' page that has the link.
    """

    page: str
    archive: str
    file: str


Source = OnHub | AmongHubFiles | InBucket | InArchive


@dataclass(frozen=True)
class Released:
    """A published checkpoint.

    Args:
        recipe: name of the recipe whose model it is.
        data: what it was trained on, in words.
        figure: published for this file.
        size: of the file.
        licence: of the file.
        source: its location.
        dataset: name of the data set, where it is not the recipe's.
        note: remark for the user.
        is_tokenizer: whether `load_tokenizer` loads it, not `load_model`.
    """

    system: str
    recipe: str
    data: str
    figure: str
    size: str
    licence: str
    citation: str
    source: Source
    dataset: str | None = None
    note: str = ""
    is_tokenizer: bool = False
