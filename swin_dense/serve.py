"""A page in the browser to try a model on: drop an image or a video, see what it finds, move the threshold.

Nothing of what is dropped stays on disk: gradio writes an upload into a folder that lives as long as the page, and it
is deleted there as soon as it is read. Results go to the browser inside the answer, not as files.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from swin_dense.errors import ConfigError, InstallationError, SwinDenseError

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:"
)
"""What the page may load: what comes from this server. Gradio's own would ask other servers for fonts and scripts."""

MEMORY_SECONDS = 600
"""How long the last result of a visitor is remembered, for another threshold."""


def serve(model: Any, *, host: str = "127.0.0.1", port: int = 7860, max_mib: int = 64) -> None:
    """Serves the page until it is stopped.

    Args:
        model: What `swin_dense.load` returns, for any task.
        host: The address that it is bound to; others than this machine reach it at "0.0.0.0", without a password.
        port: The port.
        max_mib: Largest upload in MiB.

    Raises:
        ConfigError: The address is taken, or this is a backbone alone.
        InstallationError: gradio is not installed.
    """
    task = model.task  # refuses a backbone alone, before anything is imported
    with _without_traces():
        try:
            import gradio
        except ImportError as error:
            raise InstallationError(f"gradio does not import ({error}): pip install 'swin-dense[serve]'") from error
        page = build_page(gradio, model, task)
        try:
            page.launch(
                server_name=host,
                server_port=port,
                max_file_size=max_mib * 2**20,
                share=False,
                ssr_mode=False,
                enable_monitoring=False,
                footer_links=[],
                theme=gradio.themes.Default(font="system-ui", font_mono="monospace"),
                app_kwargs={"middleware": [_policy()]},
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise ConfigError(f"port {port} of {host} cannot be used: {error}") from error
        print(f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port} (Ctrl-C stops it)", file=sys.stderr)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        page.block_thread()


@contextmanager
def _without_traces() -> Iterator[None]:
    """A folder for uploads that goes when the page does, and no word to gradio's makers."""
    with TemporaryDirectory(prefix="swin-dense-serve-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        yield


def _policy() -> Any:
    """Middleware that tells browsers what they may load."""
    from starlette.middleware import Middleware

    class Policy:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def with_policy(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
                await send(message)

            await self.app(scope, receive, with_policy)

    return Middleware(Policy)


def build_page(gradio: Any, model: Any, task: Any) -> Any:
    """The page as gradio's `Blocks`."""
    inputs = task.inputs(model.config)
    has_threshold = task.lowest_score is not None

    def predict(upload: str | None, threshold: float) -> tuple[Any, str]:
        if upload is None:
            return None, ""
        try:
            if Path(upload).suffix.lower() not in inputs.suffixes:
                raise ConfigError(f"{Path(upload).name}: none of {', '.join(inputs.suffixes)}")
            found = model.predict(upload, **({"threshold": task.lowest_score} if has_threshold else {}))
        except SwinDenseError as error:
            return None, f"<p role=alert>{html.escape(str(error).replace(str(Path(upload).parent) + os.sep, ''))}</p>"
        finally:
            shutil.rmtree(Path(upload).parent, ignore_errors=True)  # gradio makes a folder for each upload
        return found, show(found, threshold)

    def show(found: Any, threshold: float) -> str:
        return "" if found is None else as_html(found.above(threshold) if has_threshold else found)

    name = Path(model.name).name  # not where it lies on the server
    with gradio.Blocks(title=f"Swin Dense: {name}", analytics_enabled=False, delete_cache=(60, 60)) as page:
        gradio.Markdown(f"# {name}\n{model.config.task}, {len(model.class_names)} classes")
        upload = gradio.File(label="Drop a file", file_types=list(inputs.suffixes), type="filepath")
        threshold = gradio.Slider(0, 1, 0.3, step=0.01, label="Least score", visible=has_threshold)
        result = gradio.HTML()
        found = gradio.State(time_to_live=MEMORY_SECONDS)
        upload.upload(predict, [upload, threshold], [found, result], concurrency_limit=1, api_visibility="private")
        threshold.input(show, [found, threshold], result, trigger_mode="always_last", api_visibility="private")
        upload.clear(lambda: (None, ""), None, [found, result], api_visibility="private")
    return page


def as_html(found: Any) -> str:
    """A result as a picture, a table and a file to download, all of them inside the text."""
    picture = io.BytesIO()
    found.draw().save(picture, "PNG")
    rows = found.to_coco()
    document = json.dumps(rows, indent=1, ensure_ascii=False).encode()
    lines = "".join(f"<tr><td>{html.escape(row['category'])}</td>{_cell(row)}</tr>" for row in rows[:100])
    return (
        f'<img alt="what was found" style="max-width:100%" src="data:image/png;base64,{_text(picture.getvalue())}">'
        f'<p><a download="predictions.json" href="data:application/json;base64,{_text(document)}">Download JSON</a>'
        f" ({len(rows)} row{'s' * (len(rows) != 1)})</p><table>{lines}</table>"
    )


def _cell(row: Any) -> str:
    return f"<td>{row['score']:.2f}</td>" if "score" in row else ""


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
