"""`torchslots app`."""

import os
import socket
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import tyro

from torchslots.cli.options import Flat, Words, parse
from torchslots.io.errors import UserError, note

_PORTS = range(7860, 7960)
_HINT = (
    "The app needs gradio and gradio_image_annotation, which are not installed: pip install 'torchslots[app]'"
)


@dataclass(frozen=True)
class AppOptions:
    """Where the page is, and what it takes."""

    host: str = "127.0.0.1"
    """Address to answer on; the default is this machine alone. 0.0.0.0: every machine that reaches this one."""
    port: int | None = None
    """Port; None: the first free one from 7860 on."""
    max_upload: int = 200
    """Largest film or image that is taken, in MB."""
    max_frames: int = 1000
    """Longest film that is taken, in frames."""
    device: str | None = None
    """cpu, cuda, cuda:N or mps; None: cuda or mps where there is one, else cpu."""

    def __post_init__(self) -> None:
        for name in ("max_upload", "max_frames"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} should be 1 or more, got {getattr(self, name)}.")
        if self.port is not None and not 0 < self.port < 65536:
            raise UserError(f"port should be 1 to 65535, got {self.port}.")


def app(words: Words) -> int:
    """`torchslots app [MODEL]`."""
    usual = AppOptions()

    def app(model: tyro.conf.Positional[str | None] = None, /, options: Flat[AppOptions] = usual) -> int:
        """Open a local page: drop a film, draw boxes, see objects and tracks, edit them, download the results.

        Args:
            model: A run folder, a model folder, a published checkpoint by name, or owner/name on the hub, chosen first.
                The list also has the runs below the working folder and the published checkpoints.
            options: Where the page is, and what it takes.
        """
        with tempfile.TemporaryDirectory(prefix="torchslots-app-") as folder:
            blocks, address = serve(Path(folder), model, options)
            print(f"The app is at {address} (Ctrl-C ends it).", flush=True)
            try:
                blocks.block_thread()
            finally:
                blocks.close(verbose=False)
        return 0

    return parse(app, words, "app")


def serve(folder: Path, model: str | None, options: AppOptions, runs: Path | None = None) -> tuple[Any, str]:
    """Start the page; returns gradio's blocks and the address.

    Args:
        folder: for all files; the caller removes it.
        runs: folder below which runs are sought; None: the working folder.

    Raises:
        UserError: no gradio, a port that is in use, an address that is not this machine's, or a model that cannot be
            loaded.
    """
    require_gradio()
    port = free_port(options.host, options.port)
    uploads = prepare_environment(folder)
    from torchslots.cli.app.examples import Examples
    from torchslots.cli.app.models import Shelf, choices
    from torchslots.cli.app.session import Session, Sessions
    from torchslots.cli.app.uploads import Limits
    from torchslots.io.devices import announce_device

    shelf = Shelf(choices(runs or Path.cwd(), model), announce_device(options.device))
    if model is not None:
        shelf.open(model)
    from torchslots.cli.app.page import Page, look

    limits = Limits(options.max_upload, options.max_frames)
    examples = Examples(folder / "examples")
    sessions = Sessions(uploads, lambda place: Session(place, shelf, examples, limits))
    named = [(choice.name, choice.note) for choice in shelf.named.values()]
    ready = next((choice.name for choice in shelf.named.values() if not choice.note), None)
    blocks = Page(sessions, named, ready).build()
    if not is_loopback(options.host):
        note(f"everyone who reaches {options.host}:{port} can use this page.")
    blocks.queue(default_concurrency_limit=1).launch(
        server_name=options.host,
        server_port=port,
        max_file_size=f"{options.max_upload}mb",
        blocked_paths=[str(folder / "examples")],
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        show_error=False,
        footer_links=[],
        **look(),
    )
    return blocks, f"http://{_shown(options.host)}:{port}"


def require_gradio() -> None:
    """Check that the app's packages are installed.

    Raises:
        UserError: one is not.
    """
    if find_spec("gradio") is None or find_spec("gradio_image_annotation") is None:
        raise UserError(_HINT)


def prepare_environment(folder: Path) -> Path:
    """Keep all of gradio's files below `folder`, and gradio from asking the network; returns the folder of uploads.

    It is read when gradio is imported.
    """
    uploads = folder / "files"
    uploads.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(folder / "cached")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_SSR_MODE"] = "False"
    return uploads


def free_port(host: str, port: int | None) -> int:
    """The port, or the first free one.

    Raises:
        UserError: it is in use, or the address is not this machine's.
    """
    if port is not None and not 0 <= port < 1 << 16:
        raise UserError(f"Port {port} does not exist. Give a --port from 1024 to 65535.")
    for candidate in _PORTS if port is None else (port,):
        try:
            with socket.create_server((host, candidate), family=_family(host)):
                return candidate
        except socket.gaierror as error:
            raise UserError(
                f"{host} is no address of this machine. Give 127.0.0.1 or 0.0.0.0 as --host."
            ) from error
        except OSError as error:
            if error.errno == 99:
                raise UserError(
                    f"{host} is no address of this machine. Give 127.0.0.1 or 0.0.0.0 as --host."
                ) from error
            if isinstance(error, PermissionError):
                raise UserError(f"Port {candidate} needs more rights. Give a --port from 1024 on.") from error
    if port is None:
        raise UserError(f"Ports {_PORTS.start} to {_PORTS.stop - 1} are in use. Give another as --port.")
    raise UserError(f"Port {port} is in use. Give another --port, or none for the first free one.")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(host: str) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{name}]" if ":" in name else name
