"""The text encoder in a process of its own, so that loading transformers never holds up the frame loop.

The engine's worker makes one; its prompt thread calls `encode`. A child of the engine process (spawned, low priority),
it ends with the pipe and with the engine. Request: the text in UTF-8. Answer: a msgpack map with "states" (float32
bytes), "tokens" and "width", or "error"; an empty map for a text that encodes to nothing.
"""

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
import torch

from rfm_live.errors import CheckpointError, RfmError
from rfm_live.model.checkpoint import load_text_encoder

if TYPE_CHECKING:
    from rfm_live.engine.stream import PromptStates

_SPAWN = multiprocessing.get_context("spawn")
_NICENESS = 5
_END_SECONDS = 0.1


class TextProcess:
    """Encodes prompts for the checkpoint in `path`; the process starts with `start` or the first prompt."""

    def __init__(self, path: Path, trust_pickle: bool = False) -> None:
        self._path = path
        self._trust_pickle = trust_pickle
        self._conn: Connection | None = None
        self._process: Any = None
        self._is_closed = False

    def start(self) -> None:
        """Begin to load the encoder (seconds), and return at once; a process that has died is started anew.

        Raises CheckpointError after `close`.
        """
        if self._is_closed:
            raise CheckpointError(f"{self._path}: the text encoder has been closed")
        if self._process is not None and self._process.is_alive():
            return
        if self._conn is not None:
            self._conn.close()
        self._conn, theirs = _SPAWN.Pipe()
        arguments = (theirs, str(self._path), self._trust_pickle)
        self._process = _SPAWN.Process(target=_serve, args=arguments, name="rfm_live text", daemon=True)
        self._process.start()
        theirs.close()

    def encode(self, text: str) -> "PromptStates | None":
        """States [1, S, text_width] and mask [1, S] of a prompt. Waits for the process. Raises CheckpointError."""
        self.start()
        assert self._conn is not None
        try:
            self._conn.send_bytes(text.encode())
            answer = msgpack.unpackb(self._conn.recv_bytes())
        except (EOFError, OSError) as error:
            raise CheckpointError(f"{self._path}: the text encoder's process has died") from error
        if "error" in answer:
            raise CheckpointError(answer["error"])
        if not answer:
            return None
        rows = np.frombuffer(answer["states"], np.float32).reshape(1, answer["tokens"], answer["width"])
        return torch.from_numpy(rows.copy()), torch.ones(rows.shape[:2], dtype=torch.bool)

    def close(self) -> None:
        """End the process, if there is one, for good; a prompt that waits for it gets CheckpointError."""
        self._is_closed = True
        if self._process is not None:
            self._process.terminate()
            self._process.join(_END_SECONDS)


def _serve(conn: Connection, path: str, trust_pickle: bool) -> None:
    """Answer prompts until the pipe closes (target of the spawned process)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal: the parent decides
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    torch.set_num_threads(1)
    encoder, failure = None, ""
    try:
        encoder = load_text_encoder(Path(path), trust_pickle)
    except RfmError as error:
        failure = str(error)
    try:
        while True:
            text = conn.recv_bytes().decode()
            encoded = None if encoder is None else encoder.encode(text)
            answer: dict[str, object] = {"error": failure} if failure else {}
            if encoded is not None:
                states = encoded[0][0].numpy()  # [S, text_width]
                answer = {"states": states.tobytes(), "tokens": states.shape[0], "width": states.shape[1]}
            conn.send_bytes(msgpack.packb(answer))
    except (EOFError, OSError):
        return  # the engine has gone


def _end_with_parent() -> None:
    """An engine that is killed while the encoder loads must not leave it behind: the pipe is read only afterwards."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)
