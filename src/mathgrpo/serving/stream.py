"""The text of completions, piece by piece as it becomes certain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mathgrpo.models import Policy
from mathgrpo.rollout.choose_engine import build_decoder, plain_decoder
from mathgrpo.rollout.scheduler import Rows
from mathgrpo.types import Prompt, Sampling

PLAIN = "the model's own forward pass"


class Streamer:
    """Draws from a policy whose weights no longer change; the model is in eval mode from here on.

    native=False leaves out the decoders that need memory for a second copy of the matrices: every token then comes from
    the model's own forward pass, which also serves where no decoder does.

    Attributes:
        policy: what is drawn from.
        reason: how it decodes; one line.
    """

    def __init__(self, policy: Policy, *, native: bool = True) -> None:
        policy.model.eval()
        decoder, why = build_decoder(policy, frozen=True) if native else (None, "asked for")
        self.policy, self._decoder = policy, decoder or plain_decoder(policy, [])
        self.reason = why if decoder else "; ".join(filter(None, (PLAIN, why)))

    def rows(self, max_rows: int) -> Rows:
        """Return a scheduler in which this many completions can be in flight."""
        return Rows(self.policy, self._decoder, max_rows=max_rows)

    def text(self, prompt: Prompt, sampling: Sampling, tokens: list[int]) -> Iterator[str]:
        """Yield the pieces of a completion's text as they become certain, and collect its tokens in `tokens`."""
        text, rows = CompletionText(self.policy, sampling.max_new_tokens), self.rows(1)
        rows.submit(prompt, sampling)
        while rows.busy:
            for drawn in rows.step():
                tokens += drawn.ids
                if piece := text.push(drawn.ids):
                    yield piece


class CompletionText:
    """Tokens of a completion in, its text out as it becomes certain, up to an end token, a stop text or `most` tokens.

    A token may end inside a character, and a text may be the beginning of a stop text: both wait for the rest. The stop
    texts are no part of the text. Only the last tokens are decoded, those of the piece before included: what a decoder
    does at the beginning of a text (drop a space) it does then to both. whole: nobody waits for a part of the text, so
    where no stop text can end it, it is decoded once.

    Attributes:
        text: all of it so far.
        finish: "stop" or "length" once it is over, "" before.

    Example:
        >>> from types import SimpleNamespace
        >>> letters = SimpleNamespace(decode=lambda ids: "".join(map(chr, ids)), eos_ids=(0,))
        >>> text = CompletionText(letters, most=20, stops=("END",))
        >>> text.push(b"one E"), text.push(b"ND two"), text.finish, text.num_tokens
        ('one', ' ', 'stop', 7)
    """

    def __init__(self, policy: Policy, most: int, stops: Sequence[str] = (), *, whole: bool = False) -> None:
        self._decode, self._eos_ids, self._most, self._stops = policy.decode, policy.eos_ids, most, stops
        self._late = whole and not stops
        self._held_back = max(map(len, stops), default=1) - 1
        self._tokens: list[int] = []
        self._before, self._shown = 0, 0  # where the last piece's tokens begin and end
        self._waiting = ""
        self.text, self.finish = "", ""

    @property
    def num_tokens(self) -> int:
        """Tokens until now, the end token included."""
        return len(self._tokens)

    def push(self, ids: Sequence[int]) -> str:
        """Return the text that the next tokens add; what comes after the end is passed over."""
        before = len(self.text)
        for part in [[token] for token in ids] if self._stops else [ids]:  # a stop text can end at any token
            if not self.finish:
                self._push(part)
        return self.text[before:]

    def _push(self, ids: Sequence[int]) -> None:
        self._tokens += ids
        ended = self._tokens[-1] in self._eos_ids
        last = ended or len(self._tokens) == self._most
        if self._late and not last:
            return
        self._waiting += self._piece(len(self._tokens) - ended, last=last)
        found = [start for stop in self._stops if (start := self._waiting.find(stop)) >= 0]
        certain = min(found, default=len(self._waiting) if last else max(0, len(self._waiting) - self._held_back))
        self.text, self._waiting = self.text + self._waiting[:certain], self._waiting[certain:]
        if last or found:
            self.finish = "stop" if ended or found else "length"

    def _piece(self, end: int, *, last: bool) -> str:
        """Return what the tokens up to this one add to the certain text; "" where they end inside a character."""
        shown, text = (
            self._decode(self._tokens[self._before : self._shown]),
            self._decode(self._tokens[self._before : end]),
        )
        if not last and (text.endswith("\ufffd") or not text.startswith(shown) or text == shown):
            return ""
        self._before, self._shown = self._shown, end
        return text[len(shown) :]
