"""Public files of the networks' weights: addresses, digests, download and loading.

None is part of this package. A file is read from the cache or a given path, or is downloaded. Its digest is compared
with the published one first, and it is opened as tensors only, never as code.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from torchslots.data.download.http import RemoteFile, download_all
from torchslots.io.cache import user_cache
from torchslots.io.errors import UserError, nearest
from torchslots.io.files import locked, sha256_of
from torchslots.models.weights import check_fit, shapes

State = dict[str, Tensor]
_ENV = "TORCHSLOTS_FEATURES"


@dataclass(frozen=True)
class FeatureFile:
    """A published file of weights.

    It is identified by its SHA-256, whose first digits torch.hub's file names have, or by its git id, the SHA-1 of its
    length and content.
    """

    name: str
    file: str
    address: str
    licence: str
    what: str
    sha256: str = ""
    git_id: str = ""


_TORCHVISION = "https://download.pytorch.org/models"
_LPIPS = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/"
    "082bb24f84c091ea94de2867d34c4544f68e0963/lpips/weights/v0.1"
)
FILES: dict[str, FeatureFile] = {
    file.name: file
    for file in (
        FeatureFile(
            "vgg16",
            "vgg16-397923af.pth",
            f"{_TORCHVISION}/vgg16-397923af.pth",
            "BSD-3-Clause, torchvision",
            "VGG16 trained on ImageNet; LPIPS needs it",
            sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        ),
        FeatureFile(
            "alexnet",
            "alexnet-owt-7be5be79.pth",
            f"{_TORCHVISION}/alexnet-owt-7be5be79.pth",
            "BSD-3-Clause, torchvision",
            "AlexNet trained on ImageNet; LPIPS needs it",
            sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        ),
        FeatureFile(
            "lpips_vgg",
            "lpips-v0.1-vgg.pth",
            f"{_LPIPS}/vgg.pth",
            "BSD-2-Clause, PerceptualSimilarity",
            "LPIPS v0.1: what each channel of VGG16 weighs",
            sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        ),
        FeatureFile(
            "lpips_alex",
            "lpips-v0.1-alex.pth",
            f"{_LPIPS}/alex.pth",
            "BSD-2-Clause, PerceptualSimilarity",
            "LPIPS v0.1: what each channel of AlexNet weighs",
            sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        ),
        FeatureFile(
            "inception",
            "pt_inception-2015-12-05-6726825d.pth",
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth",
            "Apache-2.0, TensorFlow models",
            "the Inception-v3 of the Fréchet inception distance",
            sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        ),
        FeatureFile(
            "i3d",
            "i3d_pretrained_400.pt",
            "https://raw.githubusercontent.com/songweige/TATS/03bbce1daa3da7e9bff8221e9ec433df9484817f/"
            "tats/fvd/i3d_pretrained_400.pt",
            "MIT, TATS",
            "the I3D of the Fréchet video distance",
            git_id="a867b87ac3a9097d200598b1d48a1b890d8ec744",
        ),
    )
}
"""Name -> file, with digests of the publishers or of the files in their repositories."""


class MissingWeights(UserError):
    """A public file is missing; the message names its address and the folder for it."""


def feature_folder() -> Path:
    """Folder of downloaded files: TORCHSLOTS_FEATURES, or `torchslots/features` in the user's cache."""
    if folder := os.environ.get(_ENV):
        return Path(folder)
    return user_cache("features")


def feature_weights(
    name: str, file: Path | str | None = None, *, sha256: str | None = None, download: bool = True
) -> State:
    """Tensors of a public file by their public names.

    Args:
        name: one of `FILES`.
        file: its path; None: in `feature_folder`, downloaded if missing.
        sha256: digest of another file to accept.
        download: whether it may be downloaded.

    Raises:
        MissingWeights: the file is missing, and may not or cannot be downloaded.
        UserError: an unknown name, a file with another digest, or a file with more than tensors.
    """
    if name not in FILES:
        raise UserError(f"There are no public weights called `{name}`. {nearest(name, FILES)}")
    public = FILES[name]
    path = Path(file) if file is not None else feature_folder() / public.file
    if not path.is_file():
        if file is not None or not download:
            raise MissingWeights(f"{path} does not exist. {where_to_get(name)}")
        _download(public, path)
    _check(path, public, sha256)
    return _read(path)


def where_to_get(name: str) -> str:
    """Instructions for a user without the file."""
    public = FILES[name]
    return (
        f"It is {public.what} ({public.licence}): get {public.address} and save it as "
        f"{feature_folder() / public.file}, or set {_ENV} to the folder that has it."
    )


def _download(public: FeatureFile, path: Path) -> None:
    """Download a file into the cache, one process at a time."""
    with locked(path.parent / ".lock", advice=f"Set {_ENV} to a folder that can."):
        if path.is_file():
            return
        try:
            download_all([RemoteFile(public.address, path.name)], path.parent, public.name, connections=1)
        except UserError as error:
            raise MissingWeights(f"{str(error).split('. ')[0]}. {where_to_get(public.name)}") from error
        found = sha256_of(path)
        if not _is_public(path, public, found):
            path.unlink()
            raise UserError(
                f"What {public.address} gives has the SHA-256 {found}, not that of the published file "
                f"({_expected(public)}), and was thrown away. Try again, or get {public.file} from elsewhere."
            )


def _check(path: Path, public: FeatureFile, sha256: str | None) -> None:
    found = sha256_of(path)
    if sha256 is not None and found != sha256.lower():
        raise UserError(f"{path} has the SHA-256 {found}, not {sha256.lower()}. Get the file anew.")
    if sha256 is None and not _is_public(path, public, found):
        raise UserError(
            f"{path} has the SHA-256 {found} and is not the published {public.file} ({_expected(public)}). "
            "Get the file anew; if you know what it is, give this digest as `sha256`."
        )


def _is_public(path: Path, public: FeatureFile, found: str) -> bool:
    if public.git_id:
        git = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        git.update(path.read_bytes())
        return git.hexdigest() == public.git_id
    return found == public.sha256


def _expected(public: FeatureFile) -> str:
    return f"git id {public.git_id}" if public.git_id else f"SHA-256 {public.sha256}"


def _read(path: Path) -> State:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling a damaged or foreign file may raise anything
        raise UserError(
            f"{path} is not a file of weights alone ({type(error).__name__}), so it was not opened. TorchScript "
            "archives hold programs and are never run; get the file of plain weights."
        ) from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{path} does not hold tensors by name. Get the published file anew.")
    return dict(found)


def load_public(
    network: nn.Module,
    state: Mapping[str, Tensor],
    what: str,
    own_name: Callable[[str], str] = str,
    unused: Iterable[str] = (),
) -> None:
    """Load the tensors of a public file into a network, strict both ways, and freeze it in evaluation mode.

    Args:
        what: name of the file in messages.
        own_name: public name to that of the parameter or buffer here.
        unused: prefixes of public names that are ignored, besides batch counters.

    Raises:
        UserError: a tensor is missing, unknown, or of another shape.
    """
    own = {own_name(name): value for name, value in state.items() if not _skipped(name, tuple(unused))}
    target = {name: value for name, value in network.state_dict().items() if not _skipped(name, ())}
    check_fit(shapes(own), shapes(target), f"{what} is another network's file", "Get the published file.")
    for name, value in target.items():
        value.copy_(own[name])
    network.eval().requires_grad_(False)


def _skipped(name: str, unused: tuple[str, ...]) -> bool:
    return name.endswith("num_batches_tracked") or name.startswith(unused)
