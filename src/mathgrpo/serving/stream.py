"""The text of completions, piece by piece as it becomes certain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mathgrpo.models import Policy
from mathgrpo.rollout import build_decoder
from mathgrpo.rollout.decoder import Decoder, is_rounding, trial_difference
from mathgrpo.rollout.hf.cached_decoder import CachedDecoder
from mathgrpo.rollout.hf.plain_decoder import PlainDecoder
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
        self.policy, self._decoder = policy, decoder or _plain_decoder(policy)
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
                yield from filter(None, map(text.push, drawn.ids))


def _plain_decoder(policy: Policy) -> Decoder:
    """Return what decodes any policy through the model's own forward pass: with its cache where that can be trusted."""
    cached = CachedDecoder(policy)
    try:
        serves = not getattr(policy.causal_lm, "_is_stateful", False)
        serves = serves and is_rounding(trial_difference(cached, policy), policy)
    except Exception:  # an architecture unknown to us can fail in any way of its own
        serves = False
    return cached if serves else PlainDecoder(policy)


class CompletionText:
    """Tokens of a completion in, its text out, until an end token, a stop text or the limit `most`.

    The stop texts are no part of the text. whole: nobody waits for the text before it is all there.

    Attributes:
        text: all of it so far.
        finish: "stop" or "length" once it is over, "" before.
    """

    def __init__(self, policy: Policy, most: int, stops: Sequence[str] = (), *, whole: bool = False) -> None:
        self._most, self._whole = most, whole and not stops
        self._detokenizer, self._stop = Detokenizer(policy), StopText(stops)
        self.text, self.finish = "", ""

    @property
    def num_tokens(self) -> int:
        """Tokens drawn so far, the end token included."""
        return len(self._detokenizer.tokens)

    def push(self, token: int) -> str:
        """Return the text that the next token adds."""
        source = self._detokenizer
        text = self._stop.push(source.push(token, keep=self._whole))
        last = source.ended or self.num_tokens == self._most
        if last and not self._stop.found:
            text += self._stop.push(source.rest())
        if last or self._stop.found:
            self.finish = "stop" if source.ended or self._stop.found else "length"
            text += self._stop.rest()
        self.text += text
        return text


class Detokenizer:
    """Tokens of one completion in, the pieces of its text out as they become certain.

    A token may end inside a character; its piece then waits for the rest. Only the last tokens are decoded, those of
    the piece before included: what a decoder does at the beginning of a text (drop a space) it does then to both.

    Attributes:
        tokens: all tokens so far, the end token included.
        ended: whether the last one is an end token.
    """

    def __init__(self, policy: Policy) -> None:
        self._decode, self._eos_ids = policy.decode, policy.eos_ids
        self._before, self._shown = 0, 0  # where the last piece's tokens begin and end
        self.tokens: list[int] = []
        self.ended = False

    def push(self, token: int, *, keep: bool = False) -> str:
        """Return what the token adds to the certain text, "" when nothing; keep: all of it is for `rest`."""
        self.tokens.append(token)
        self.ended = token in self._eos_ids
        if keep:
            return ""
        shown, text = self._texts()
        if text.endswith("\ufffd") or not text.startswith(shown) or text == shown:
            return ""
        self._before, self._shown = self._shown, len(self.tokens) - self.ended
        return text[len(shown) :]

    def rest(self) -> str:
        """Return what is left at the end."""
        shown, text = self._texts()
        return text[len(shown) :]

    def _texts(self) -> tuple[str, str]:
        """Return the text of the last piece, and the same text with what is not shown yet."""
        end = len(self.tokens) - self.ended
        return self._decode(self.tokens[self._before : self._shown]), self._decode(self.tokens[self._before : end])


class StopText:
    """Text in, the same text out up to the first stop text; what may be the beginning of one waits.

    Example:
        >>> stop = StopText(("END",))
        >>> stop.push("one E"), stop.push("ND two"), stop.found
        ('one ', '', True)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._waiting = ""
        self.found = False

    def push(self, text: str) -> str:
        """Return what is certain to come before any stop text."""
        self._waiting += text
        starts = [start for stop in self._stops if (start := self._waiting.find(stop)) >= 0]
        if starts:
            self.found = True
            return self._take(min(starts))
        longest = max((_overlap(self._waiting, stop) for stop in self._stops), default=0)
        return self._take(len(self._waiting) - longest)

    def rest(self) -> str:
        """Return what waited, when nothing more comes."""
        return "" if self.found else self._take(len(self._waiting))

    def _take(self, length: int) -> str:
        text, self._waiting = self._waiting[:length], self._waiting[length:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Return how much of the text's end is a beginning of the stop text."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
