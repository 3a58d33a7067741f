"""The parts of a streamed completion put together into the answer that the same request without a stream would get.

Source: https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

from typing import Any

_TEXTS = ("content", "reasoning_content")


class WholeAnswer:
    """Takes parts in their order, of one or more choices whose parts are text."""

    def __init__(self, *, is_chat: bool) -> None:
        self._chat = is_chat
        self._about: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, part: dict[str, Any]) -> None:
        """One more part."""
        self._about |= {key: value for key, value in part.items() if key != "choices" and value is not None}
        for choice in part.get("choices", ()):
            index = choice.get("index", 0)
            whole = self._choices.setdefault(index, self._empty(index))
            if choice.get("finish_reason") is not None:
                whole["finish_reason"] = choice["finish_reason"]
            if not self._chat:
                whole["text"] += choice.get("text") or ""
                continue
            for key in _TEXTS:
                if choice.get("delta", {}).get(key):
                    whole["message"][key] = (whole["message"].get(key) or "") + choice["delta"][key]

    def _empty(self, index: int) -> dict[str, Any]:
        content = {"message": {"role": "assistant", "content": ""}} if self._chat else {"text": "", "logprobs": None}
        return {**content, "index": index, "finish_reason": None}

    def document(self) -> dict[str, Any]:
        """The answer."""
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._about, "object": kind, "choices": [self._choices[index] for index in sorted(self._choices)]}
