"""The page: components, and the events that call the session. Everything else is in the other files of this folder."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
import numpy as np
from gradio_image_annotation import image_annotator  # pyright: ignore[reportMissingImports]

from torchslots.cli.app.boxes import annotated, boxes_of
from torchslots.cli.app.models import needs_of
from torchslots.cli.app.render import STYLE, frame_html, image_tag, tracks_html
from torchslots.cli.app.session import ACTIONS, Change, Session, Sessions
from torchslots.cli.app.uploads import Film
from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.io.films import FILM_SUFFIXES
from torchslots.io.images import IMAGE_SUFFIXES

_HIDDEN: dict[str, Any] = {"api_visibility": "private"}
_MODEL: dict[str, Any] = {**_HIDDEN, "concurrency_id": "model", "concurrency_limit": 1}
"""Events that run a model, one at a time."""
_QUICK: dict[str, Any] = {**_HIDDEN, "concurrency_limit": 4, "show_progress": "hidden"}


@contextmanager
def shown_errors() -> Iterator[None]:
    """A `UserError` becomes a message on the page."""
    try:
        yield
    except UserError as error:
        raise gr.Error(escape(str(error)), duration=None, print_exception=False) from None


class Page:
    """Builds the page and answers its events.

    Args:
        models: names for the list, and notes on them.
        chosen: the model that is chosen first; None: none.
    """

    def __init__(self, sessions: Sessions, models: Sequence[tuple[str, str]], chosen: str | None) -> None:
        self.sessions, self._models, self._chosen = sessions, models, chosen

    def build(self) -> gr.Blocks:
        """The page."""
        with gr.Blocks(title="torchslots", analytics_enabled=False, delete_cache=(300, 3600)) as blocks:
            gr.Markdown("## torchslots: objects in films and images")
            with gr.Row():
                with gr.Column(scale=2, min_width=340):
                    self._inputs()
                with gr.Column(scale=3, min_width=340, visible=False, elem_id="results") as self.results:
                    self._outputs()
            self._events(blocks)
        return blocks

    def _inputs(self) -> None:
        labelled = [(f"{name} ({note})" if note else name, name) for name, note in self._models]
        self.model = gr.Dropdown(labelled, value=self._chosen, label="Model", elem_id="model")
        self.about = gr.Markdown("", elem_id="about")
        endings = sorted({*FILM_SUFFIXES, *IMAGE_SUFFIXES})
        self.file = gr.File(label="Film or image", file_types=endings, height=140, elem_id="upload")
        with gr.Row():
            self.examples = {
                name: gr.Button(f"Example {name}", size="sm", elem_id=f"example-{name}")
                for name in ("film", "image")
            }
        self.film = gr.Markdown("", elem_id="film")
        self.boxes = image_annotator(
            label="Boxes on the first frame", show_label=False, sources=[], show_download_button=False,
            show_clear_button=False, show_remove_button=True, disable_edit_boxes=True, boxes_alpha=0.25,
            visible=False, elem_id="boxes", box_min_size=4, handle_size=6,
        )  # fmt: skip
        self.preview = gr.HTML(visible=False, elem_id="preview")
        self.mask = gr.File(
            label="Masks of the first frame (PNG)", file_types=[".png"], height=140, visible=False
        )
        self.num_slots = gr.Number(
            None, label="Number of slots (empty: as the model was built)", precision=0, visible=False
        )
        self.find = gr.Button("Find objects", variant="primary", elem_id="find")

    def _outputs(self) -> None:
        self.number = gr.Slider(0, 1, 0, step=1, label="Frame", elem_id="frame")
        self.view = gr.HTML(elem_id="view")
        self.shown = gr.CheckboxGroup([], label="Slots that are shown", elem_id="shown")
        with gr.Accordion("Tracks", open=True):
            self.tracks = gr.HTML(elem_id="tracks")
        with gr.Accordion("Change objects", open=True):
            self._edits()
        with gr.Accordion("Film of the overlay", open=False):
            self.overlay = gr.Video(show_label=False, autoplay=False, elem_id="overlay")
        self.download = gr.DownloadButton("Download everything (zip)", elem_id="download")

    def _edits(self) -> None:
        self.action = gr.Radio(list(ACTIONS[:3]), value=ACTIONS[0], label="Edit", elem_id="action")
        self.edited_slots = gr.CheckboxGroup([], label="Slots", elem_id="edited-slots")
        with gr.Row(visible=False) as self.swap:
            self.partner = gr.Dropdown([], label="Swap with a slot of")
            self.partner_slots = gr.CheckboxGroup(
                [], label="Its slots, in the same order", elem_id="partner-slots"
            )
        with gr.Row(visible=False) as self.move:
            self.down = gr.Slider(-1, 1, 0.0, step=0.05, label="Down, in halves of the image")
            self.right = gr.Slider(-1, 1, 0.0, step=0.05, label="To the right")
        self.factor = gr.Slider(0.25, 3, 1.0, step=0.05, label="Factor", visible=False)
        self.degrees = gr.Slider(-180, 180, 0, step=5, label="Degrees counter-clockwise", visible=False)
        self.decode = gr.Button("Decode again", elem_id="decode")
        self.edited = gr.HTML(elem_id="edited")
        self.edited_film = gr.DownloadButton(
            "Download the edited film", visible=False, elem_id="edited-download"
        )

    def _events(self, blocks: gr.Blocks) -> None:
        inputs = [self.about, self.boxes, self.preview, self.mask, self.num_slots, self.action]
        blocks.load(self.choose, self.model, inputs, **_MODEL)
        self.model.input(self.choose, self.model, inputs, **_MODEL)
        taken = [self.file, self.film, self.boxes, self.preview, self.results]
        self.file.upload(self.upload, [self.file, self.model], taken, **_MODEL)
        for name, button in self.examples.items():
            button.click(self._example(name), self.model, taken, **_MODEL)
        found = [
            self.results, self.number, self.view, self.shown, self.tracks, self.edited_slots, self.partner,
            self.overlay, self.download, self.edited, self.edited_film, self.partner_slots,
        ]  # fmt: skip
        asked = [self.model, self.boxes, self.mask, self.num_slots]
        self.find.click(self.find_objects, asked, found, show_progress_on=self.find, **_MODEL)
        at = [self.number, self.shown]
        self.number.input(
            self.scrub, at, [self.view, self.tracks, self.edited], trigger_mode="always_last", **_QUICK
        )
        self.shown.input(
            self.scrub, at, [self.view, self.tracks, self.edited], trigger_mode="always_last", **_QUICK
        )
        self.action.change(
            self.show_edit, self.action, [self.swap, self.move, self.factor, self.degrees], **_QUICK
        )
        self.partner.change(self.show_partner, self.partner, self.partner_slots, **_QUICK)
        change = [
            self.action, self.edited_slots, self.down, self.right, self.factor, self.degrees, self.partner,
            self.partner_slots, self.number,
        ]  # fmt: skip
        self.decode.click(self.edit, change, [self.edited, self.edited_film], **_MODEL)
        blocks.unload(self.leave)

    def _session(self, request: gr.Request) -> Session:
        return self.sessions.get(str(request.session_hash))

    def choose(self, model: str | None, request: gr.Request) -> list[Any]:
        """Load a model, and show what it needs."""
        session = self._session(request)
        if model is None:
            return ["Choose a model.", *([gr.skip()] * 5)]
        with shown_errors():
            needs = needs_of(session.shelf.open(model))
        actions = list(ACTIONS) if needs.poses else list(ACTIONS[:3])
        return [
            needs.describe(),
            gr.update(visible=needs.hint == "boxes" and session.film is not None),
            gr.update(visible=needs.hint != "boxes" and session.film is not None),
            gr.update(visible=needs.hint == "masks"),
            gr.update(visible=needs.hint == "nothing"),
            gr.update(choices=actions, value=actions[0]),
        ]

    def upload(self, file: str | None, model: str | None, request: gr.Request) -> list[Any]:
        """Take a film; what is refused leaves the page as it was."""
        session = self._session(request)
        try:
            film = session.upload(Path(str(file)))
        except UserError as error:
            gr.Warning(escape(str(error)), duration=None)
            return [None, *([gr.skip()] * 4)]
        return self._taken(session, film, model)

    def _example(self, name: str) -> Callable[..., list[Any]]:
        def take(model: str | None, request: gr.Request) -> list[Any]:
            session = self._session(request)
            with shown_errors():
                return self._taken(session, session.example(name), model)

        return take

    def _taken(self, session: Session, film: Film, model: str | None) -> list[Any]:
        drawn = self._takes_boxes(session, model)
        boxes = gr.update(
            value=annotated(film, session.folder / "first" / f"{film.path.stem}.png"), visible=drawn
        )
        preview = gr.update(value=image_tag(film.first, "first frame"), visible=not drawn)
        return [None, escape(film.describe()), boxes, preview, gr.update(visible=False)]

    def _takes_boxes(self, session: Session, model: str | None) -> bool:
        with shown_errors():
            return bool(model) and needs_of(session.shelf.open(model)).hint == "boxes"

    def find_objects(
        self, model: str | None, drawn: Any, mask: str | None, num_slots: float | None, request: gr.Request
    ) -> list[Any]:
        """Run the model, and show the first frame."""
        session = self._session(request)
        with shown_errors():
            boxes = boxes_of(drawn, session.shown)
            count = None if not num_slots else int(num_slots)
            found = session.find(model, boxes, None if mask is None else Path(mask), count)
            archive = session.zipped()
        slots = [(f"{slot}", slot) for slot in range(found.num_slots)]
        shown = [slot for _, slot in slots]
        last, partners = found.film.num_frames - 1, session.partners()
        film = found.overlay if found.overlay.suffix == ".mp4" else None
        return [
            gr.update(visible=True),
            gr.update(value=0, maximum=max(1, last), visible=last > 0),
            frame_html(found, 0, shown),
            gr.update(choices=slots, value=shown),
            tracks_html(found, 0),
            gr.update(choices=slots, value=[]),
            gr.update(choices=partners, value=partners[0] if partners else None),
            None if film is None else str(film),
            gr.update(value=str(archive)),
            "",
            gr.update(visible=False),
            gr.update(choices=self._slots_of(session, partners[0] if partners else None), value=[]),
        ]

    def scrub(self, number: float, shown: list[int], request: gr.Request) -> list[Any]:
        """Show a frame."""
        session = self._session(request)
        with shown_errors():
            found, at = session.result, int(number)
            edited = "" if session.edited is None else _frame_of(session.edited, at)
            return [frame_html(found, at, shown), tracks_html(found, at), edited]

    def show_edit(self, action: str) -> list[Any]:
        """Show what an edit asks for."""
        wanted = ("swap", "move", "resize", "turn")
        return [gr.update(visible=action == name) for name in wanted]

    def show_partner(self, partner: str | None, request: gr.Request) -> Any:
        """Show the slots of the film to swap with."""
        return gr.update(choices=self._slots_of(self._session(request), partner), value=[])

    def _slots_of(self, session: Session, name: str | None) -> list[tuple[str, int]]:
        found = session.found.get(name or "")
        return [] if found is None else [(f"{slot}", slot) for slot in range(found.num_slots)]

    def edit(
        self, action: str, slots: list[int], down: float, right: float, factor: float, degrees: float,
        partner: str | None, partner_slots: list[int], number: float, request: gr.Request,
    ) -> list[Any]:  # fmt: skip
        """Decode edited slots, and show the frame before and after."""
        session = self._session(request)
        change = Change(action, tuple(slots), down, right, factor, degrees, partner, tuple(partner_slots))
        with shown_errors():
            file, note = session.edit(change)
            shown = f"{_frame_of(file, int(number))}<p>{escape(note)}</p>"
        return [shown, gr.update(value=str(file), visible=True)]

    def leave(self, request: gr.Request) -> None:
        """Remove a session's files."""
        self.sessions.close(str(request.session_hash))


def _frame_of(file: Path, number: int) -> str:
    frame = video.read_frames(file, number, 1)[0]
    return image_tag(np.ascontiguousarray(frame), f"frame {number} before and after the edit")


def look() -> dict[str, Any]:
    """Style of the page, without fonts from elsewhere; arguments of `launch`."""
    plain = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {"theme": plain, "css": STYLE}
