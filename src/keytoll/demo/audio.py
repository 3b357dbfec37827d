"""/v1/audio/speech and /v1/audio/transcriptions.

The demo voice hums a tone for each token and writes what it says into the sound's comment, where the transcriber reads it.
So what was said comes back, and the tokens of both can be followed by hand: a token of audio is 1,600 bytes, 0.1 s.
"""

import math
import struct
from collections.abc import Iterator
from typing import Any

from keytoll.demo.asked import Fields, Refused
from keytoll.demo.forms import Form, Upload
from keytoll.demo.text import count_tokens, pieces_of
from keytoll.demo.wire import event_bytes

SAMPLES_PER_S = 8000
BYTES_OF_ONE_TOKEN = 1600
MAXIMUM_SAID = 4096
_TONE = b"".join(
    struct.pack("<h", int(8000 * math.sin(math.tau * 440 * i / SAMPLES_PER_S))) for i in range(BYTES_OF_ONE_TOKEN // 2)
)


def speech(fields: Fields) -> tuple[bytes, str]:
    """The sound and its media type. As OpenAI's, it tells no usage."""
    said, kind = fields.get("input"), fields.get("response_format", "wav")
    if not isinstance(said, str) or not 1 <= len(said) <= MAXIMUM_SAID:
        raise Refused(400, f"input must be a string of 1 to {MAXIMUM_SAID} characters.", param="input")
    if not isinstance(fields.get("voice"), str):
        raise Refused(400, "voice must be a string.", param="voice")
    if kind not in ("wav", "pcm"):
        raise Refused(400, "response_format must be wav or pcm here.", param="response_format")
    sound = _TONE * count_tokens(said)
    return (_wav(sound, said), "audio/wav") if kind == "wav" else (sound, "audio/pcm")


def _wav(sound: bytes, comment: str) -> bytes:
    text = comment.encode("utf-8", "replace") + b"\0"
    parts = (
        _chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, SAMPLES_PER_S, 2 * SAMPLES_PER_S, 2, 16)),
        _chunk(b"LIST", b"INFO" + _chunk(b"ICMT", text)),
        _chunk(b"data", sound),
    )
    return _chunk(b"RIFF", b"WAVE" + b"".join(parts))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


class Transcript:
    """What was heard in a form's `file`."""

    def __init__(self, form: Form) -> None:
        upload = form.get("file")
        if not isinstance(upload, Upload):
            raise Refused(400, "file must be a file.", param="file")
        self.kind = form.get("response_format", "json")
        if self.kind not in ("json", "text", "srt"):
            raise Refused(400, "response_format must be json, text or srt here.", param="response_format")
        self.streamed = form.get("stream") == "true"
        self.text = _heard(upload.content)
        self._prompt_tokens = count_tokens(str(form.get("prompt", "")))
        self._audio_tokens = -(-len(upload.content) // BYTES_OF_ONE_TOKEN)

    def usage(self) -> dict[str, Any]:
        input_tokens, output_tokens = self._prompt_tokens + self._audio_tokens, count_tokens(self.text)
        return {
            "type": "tokens",
            "input_tokens": input_tokens,
            "input_token_details": {"text_tokens": self._prompt_tokens, "audio_tokens": self._audio_tokens},
            "output_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
        }

    def whole(self) -> dict[str, Any]:
        return {"text": self.text, "usage": self.usage()}

    def plain(self) -> str:
        """Text or subtitles; neither has room for the usage."""
        seconds = self._audio_tokens // 10
        time = f"00:00:00,000 --> 00:{seconds // 60 % 60:02}:{seconds % 60:02},000"
        return f"1\n{time}\n{self.text}\n" if self.kind == "srt" else self.text + "\n"

    def events(self) -> Iterator[bytes]:
        for piece in pieces_of(self.text):
            yield _event("transcript.text.delta", {"delta": piece})
        yield _event("transcript.text.done", {"text": self.text, "usage": self.usage()})


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return event_bytes(kind, {"type": kind, **data})


def _heard(sound: bytes) -> str:
    at = sound.find(b"ICMT", 0, 65536)
    if at < 0:
        return f"A sound of {len(sound)} bytes."
    length = int.from_bytes(sound[at + 4 : at + 8], "little")
    return sound[at + 8 : at + 8 + length].rstrip(b"\0").decode("utf-8", "replace")
