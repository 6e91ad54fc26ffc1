"""What a model writes goes in; what was read by every filter that counts comes out. Nothing else leads to a client.

Each channel of each choice (and each tool call) has a buffer. One scan clock moves them all: 128 new characters, the end of a
sentence where a filter reads sentences, or 150 ms. What may come out ends a hold-back window before the end of what was scanned.
The window is longer than the longest match of any rule, counted in folded characters, so that the beginning of a phrase is still
inside when its end arrives; what a filter found at the very end of the text, and a redaction that is not whole, stay inside too.

Modes: `window` is that; `strict` releases a channel after its end (so does a filter that reads only whole answers); `observe`
releases at once, and what the filters find there is written down as in shadow: it stops and redacts nothing. A channel whose
policy is `drop` is read for the record once, at the end, and counts as little; `hide` and `summarise` count in full.

Once a verdict stops the answer nothing more comes out of any channel of any choice. A thought ends where content begins: then its
window is released, and should the model think again, only what follows is held back. The one-way door is `_out`.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from temper.serve.fold import boundary, fold
from temper.serve.guard import ALL, Guard, applies, redacted
from temper.serve.policy import Treat
from temper.serve.pool import Pool
from temper.serve.think import Thoughts
from temper.serve.verdict import Action, Channel, Finding, Pace, Turn, Verdict, View

SCAN_CHARS = 128
SCAN_S = 0.15
WAITS = 16
"""Where much waits that cannot be released (60,000 invisible characters), it is read again only when it grew by a sixteenth."""
HOLD = 64
"""Folded characters that are held back at least."""
CONTEXT = 16
"""Folded characters held back beyond the longest match, for what a rule may want to see around it."""
SENTENCE_CHARS = 64
LONGEST_SENTENCE = 400
"""A sentence filter reads at the ends of sentences, but a stretch without one is read after so many characters."""
LONGEST_OPEN = 4096
"""A finding at the end of what there is may be undone by what follows; a longer one counts at once."""
STRICT_TIMES = 16
"""A strict channel holds a whole answer by design: it, and an answer in all, may be so many times `limits.pending_chars` long."""
MOST_FINDINGS = 4096
"""Of one answer; one that needs more redactions is blocked. A list of so many addresses is no answer."""
TURN = 128
"""Findings that are weighed before other requests have their turn."""
SHORTEST_SECRET = 4
"""Redacted text of fewer folded characters is not looked for in other channels."""
_SENTENCE_END = re.compile(r"[.!?…।؟][\"'”’»)\]]*\s|[。！？]|\n")
_PAUSE = re.compile(r"[.!?…।؟。！？\n]")
_HALF = re.compile("[\ud800-\udfff]")
_CALL_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_ONE: dict[Pace, frozenset[Pace]] = {
    "window": frozenset({"window"}),
    "sentence": frozenset({"sentence"}),
    "final": frozenset({"final"}),
}
_OVERFLOWS = {
    "length": "characters in one answer",
    "pending": "characters waited and could not be released",
    "findings": "findings in one answer",
}
_NAMES: frozenset[Pace] = frozenset({"window", "sentence"})


class Place(NamedTuple):
    """One buffer: a channel of a choice, of a tool call where `call` numbers one."""

    choice: int
    channel: Channel
    call: int | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of what a model writes, in or out. `name` and `call_id` come with the first piece of a tool call."""

    choice: int
    channel: Channel
    text: str
    call: int | None = None
    name: str = ""
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    call_id: str
    arguments: str


@dataclass(slots=True)
class Answer:
    """One choice as the model wrote it, whatever was released of it."""

    reasoning: str = ""
    content: str = ""
    calls: list[Call] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one channel is read and released in this answer."""

    treat: Treat
    paces: tuple[Pace, ...]
    hold: int
    strict: bool
    observed: bool
    sentences: bool
    escapes: bool


@dataclass(slots=True)
class _Buffer:
    """`text` is what the scans know of, `new` came since. `fresh` and `judged` are where the window and the sentence filters
    read on; `settled` is how far nothing that counts can change any more. `named` is the name that was read, `introduced` that it
    was released. `closed` is the end of a thought, `heard` of the last sentence, `told` that a summary was given.
    """

    place: Place
    plan: _Plan
    text: str = ""
    new: list[str] = field(default_factory=list)
    fresh: int = 0
    judged: int = 0
    settled: int = 0
    released: int = 0
    redactions: list[Finding] = field(default_factory=list)
    name: str = ""
    call_id: str = ""
    named: str = ""
    introduced: bool = False
    closing: bool = False
    closed: int = 0
    heard: int = 0
    told: bool = False

    def take(self) -> str:
        if self.new:
            self.text += "".join(self.new)
            self.new.clear()
        return self.text


class Release:
    """One answer under way. Used by one task: text is fed, and scanned whenever `feed` says so or the time `due` has come.

    `thinks` says whether content begins inside a thought, None that nobody knows; then `wary` has text wait until it is certain
    what it is, although thoughts are released as content is. `strict` makes every channel strict, for
    answers that are not streamed. `clock` tells seconds as the event loop does.
    """

    def __init__(
        self,
        guard: Guard,
        turn: Turn,
        *,
        thinks: bool | None = None,
        wary: bool = False,
        pool: Pool | None = None,
        strict: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stopped: Action | None = None
        self.scanned = 0
        self.released = 0
        self.due: float | None = None
        self._guard, self._turn, self._thinks, self._pool, self._strict, self._clock = guard, turn, thinks, pool, strict, clock
        self._wary, self._unopened = wary, False
        self._buffers: dict[Place, _Buffer] = {}
        self._plans: dict[Channel, _Plan] = {}
        self._splitters: dict[int, Thoughts] = {}
        self._told: set[int] = set()
        self._raw: dict[int, list[str]] = {}
        self._halves: dict[Place, str] = {}
        self._found: dict[tuple[Place, str, str, int, int], Finding] = {}
        self._errors: dict[str, None] = {}
        self._secrets: dict[str, str] = {}
        self._unscanned = 0
        self._waiting = 0
        self._fed = 0
        self._last: _Buffer | None = None
        self._pending = guard.policy.limits.pending_chars

    @property
    def verdict(self) -> Verdict:
        """All findings so far and their strictest action; those of observed and dropped channels are in shadow."""
        findings = tuple(self._found.values())
        action = max((f.action or Action.ALLOW for f in findings if not f.shadow), default=Action.ALLOW)
        return Verdict(max(action, self.stopped or Action.ALLOW), findings, tuple(self._errors), self.scanned)

    @property
    def found(self) -> list[tuple[Place, Finding]]:
        """Every finding with the buffer it speaks of, in the order in which they were made."""
        return [(key[0], f) for key, f in self._found.items()]

    @property
    def unopened(self) -> bool:
        """Whether a thought ended that nothing had opened, so that only its end told what it was."""
        return self._unopened or any(s.unopened for s in self._splitters.values())

    def length(self, channel: Channel) -> int:
        """Characters of a channel that were read, of all choices."""
        return sum(len(b.text) for b in self._buffers.values() if b.place.channel is channel)

    def answers(self) -> list[Answer]:
        """Everything the model wrote, by choice; to be asked when nothing more is fed."""
        self._flush()
        made: dict[int, Answer] = {}
        for place, b in sorted(self._buffers.items(), key=lambda item: (item[0].choice, item[0].call or 0)):
            answer = made.setdefault(place.choice, Answer())
            text = b.take()
            if place.channel is Channel.REASONING:
                answer.reasoning = text
            elif place.channel is Channel.CONTENT:
                answer.content = text
            else:
                answer.calls.append(Call(b.name, b.call_id, text))
        return list(made.values())

    # --- in ---------------------------------------------------------------------------------------------------------------

    def feed(self, delta: Delta) -> bool:
        """Take text in; True when a scan is due. After a stop text is only kept for `answers`."""
        text = delta.text
        if self._halves or (not text.isascii() and _HALF.search(text) is not None):
            text = self._paired(delta, text)
        if self._pending and self._fed + len(text) > STRICT_TIMES * self._pending:
            if not self._halted():
                self._overflow(Place(delta.choice, delta.channel, delta.call), "length", STRICT_TIMES * self._pending)
            return False
        self._fed += len(text)
        self._unscanned += len(text)
        if delta.channel is Channel.CONTENT:  # taken apart when a scan is due: one splitting of 128 characters, not eight of 16
            if (raw := self._raw.get(delta.choice)) is None:
                raw = self._raw[delta.choice] = []
            raw.append(text)
        elif delta.channel is Channel.TOOL_ARGS:
            self._called(delta, text)
        elif text:
            if delta.choice not in self._told:
                self._known(delta.choice)
            self._add(delta.choice, Channel.REASONING, None, text)
        return self._unscanned > 0 and self.stopped is None and self._ticked(delta.channel, text)

    def _ticked(self, channel: Channel, text: str) -> bool:
        if self._unscanned >= SCAN_CHARS and self._unscanned >= self._waiting // WAITS:
            return True
        plan = self._plans.get(channel) or self._plan(channel)
        if plan.observed or (plan.sentences and self._unscanned >= SENTENCE_CHARS and _PAUSE.search(text) is not None):
            return True
        now = self._clock()
        if self.due is None:
            self.due = now + SCAN_S
        return now >= self.due

    def _known(self, choice: int) -> None:
        """The server tells thoughts by a field of their own: what comes as content is content."""
        self._told.add(choice)
        self._split(choice)
        for channel, piece in self._splitter(choice).known():
            self._add(choice, channel, None, piece)

    def _split(self, choice: int) -> None:
        """Tell apart the thoughts and the answer in what came as content."""
        if not (raw := self._raw.get(choice)):
            return
        text = "".join(raw)
        raw.clear()
        splitter = self._splitter(choice)
        for channel, piece in splitter.feed(text):
            self._add(choice, channel, None, piece)
        if splitter.withheld > self._pending > 0 and not self._plan(Channel.CONTENT).strict and not self._halted():
            if self._wary and (pieces := splitter.presume()):  # a long thought is likelier than a long answer
                for channel, piece in pieces:
                    self._add(choice, channel, None, piece)
                return
            self._overflow(Place(choice, Channel.CONTENT), "pending", self._pending)

    def _add(self, choice: int, channel: Channel, call: int | None, text: str) -> None:
        b = self._last
        if b is None or b.place.channel is not channel or b.place.choice != choice or b.place.call != call:
            b = self._last = self._buffer(Place(choice, channel, call))
            if channel is Channel.CONTENT and (thought := self._buffers.get(Place(choice, Channel.REASONING))) is not None:
                thought.closing = True
        b.new.append(text)

    def _called(self, delta: Delta, text: str) -> None:
        b = self._buffer(Place(delta.choice, Channel.TOOL_ARGS, delta.call or 0))
        if delta.name and not b.introduced:
            b.name += delta.name
            self._unscanned += len(delta.name)
        if delta.call_id and not b.call_id:
            fits = _CALL_ID.fullmatch(delta.call_id) is not None
            b.call_id = delta.call_id if fits else f"call_{delta.choice}_{delta.call or 0}"
        if text:
            self._add(delta.choice, Channel.TOOL_ARGS, delta.call or 0, text)

    def _buffer(self, place: Place) -> _Buffer:
        if place not in self._buffers:
            self._buffers[place] = _Buffer(place, self._plan(place.channel))
        return self._buffers[place]

    def _splitter(self, choice: int) -> Thoughts:
        if choice not in self._splitters:
            self._splitters[choice] = Thoughts(self._thinks, withhold=self._withholds())
        return self._splitters[choice]

    def _withholds(self) -> bool:
        """Whether text that may turn out to be a thought must wait: where thoughts are not shown as content would be, and where
        content waits anyway.
        """
        reasoning, content = self._plan(Channel.REASONING), self._plan(Channel.CONTENT)
        return reasoning.treat != "filter" or reasoning.strict or content.strict or self._wary

    def _paired(self, delta: Delta, text: str) -> str:
        """Surrogates in pairs; half a pair at the end waits for the other half, any other half is U+FFFD."""
        place = Place(delta.choice, delta.channel, delta.call)
        text = self._halves.pop(place, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._halves[place], text = text[-1], text[:-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def _plan(self, channel: Channel) -> _Plan:
        if channel not in self._plans:
            policy, settings = self._guard.policy.channels[channel], self._guard.of[channel]
            paces = {s.filter.pace for s in settings}
            whole = any(s.filter.pace == "final" and not s.shadow and applies(s, self._turn) for s in settings)
            self._plans[channel] = _Plan(
                treat=policy.policy,
                paces=tuple(p for p in _ONE if p in paces),
                hold=max(HOLD, self._guard.reach(channel) + CONTEXT),
                strict=self._strict or policy.mode == "strict" or (policy.mode == "window" and whole),
                observed=policy.mode == "observe",
                sentences=any(s.filter.pace == "sentence" and not s.shadow for s in settings),
                escapes=channel is Channel.TOOL_ARGS,
            )
        return self._plans[channel]

    # --- read -------------------------------------------------------------------------------------------------------------

    async def scan(self) -> list[Delta]:
        """Read what is new; what may be released now. Nothing where a verdict stops the answer."""
        for choice in self._raw:
            self._split(choice)
        if self._halted():
            return []
        if self._ripe():
            self._unscanned, self.due = 0, None
            for b in list(self._buffers.values()):
                if b.new or b.closing or b.named != b.name:
                    await self._read(b, final=False)
                if self._halted():
                    return []
            if self._overfull():
                return []
        out = [d for b in self._buffers.values() if (d := self._out(b, final=False)) is not None]
        held = (len(b.text) - b.released for b in self._buffers.values() if b.plan.treat == "filter" and not b.plan.strict)
        self._waiting = max(held, default=0)
        return out

    async def end(self) -> list[Delta]:
        """The upstream ended: the last scan, and the rest."""
        self._flush()
        for choice in {0, *self._raw, *(b.choice for b in self._buffers)}:
            whole = "final" in self._plan(Channel.CONTENT).paces and not any(
                b.choice == choice and b.channel is not Channel.REASONING for b in self._buffers
            )
            if whole:  # that nothing was said is for the filters of whole answers to judge
                self._buffer(Place(choice, Channel.CONTENT))
        self._unscanned, self.due = 0, None
        for b in list(self._buffers.values()):
            if self._halted():
                return []
            await self._read(b, final=True)
        if self._halted():
            return []
        return [d for b in self._buffers.values() if (d := self._out(b, final=True)) is not None]

    def _flush(self) -> None:
        halves, self._halves = self._halves, {}
        for place in halves:
            self.feed(Delta(place.choice, place.channel, "\ufffd", place.call))
        for choice in self._raw:
            self._split(choice)
        for choice, splitter in self._splitters.items():
            for channel, piece in splitter.end():
                self._add(choice, channel, None, piece)
        self._unopened = self.unopened
        self._splitters.clear()

    def _halted(self) -> bool:
        return self.stopped is not None

    def _ripe(self) -> bool:
        """Whether filters are to read now: not where only an observed channel wants its text out."""
        if self._unscanned >= SCAN_CHARS or self.due is None:
            return True
        return self.due - self._clock() < SCAN_S / 2 or not any(b.plan.observed for b in self._buffers.values() if b.new)

    async def _read(self, b: _Buffer, *, final: bool) -> None:
        """Every filter that has something to read in a buffer reads it."""
        plan = b.plan
        text = b.take()
        if b.named != b.name:
            await self._read_name(b)
        if plan.treat == "drop" and not final:
            return
        whole, b.closing = final or b.closing, False
        b.closed = len(text) if whole else b.closed
        before = b.settled
        if final and b.fresh == b.judged == 0:
            await self._judge(b, View(b.place.channel, text, self._turn, choice=b.place.choice), ALL)
            b.fresh = b.judged = len(text)
        else:
            for pace in plan.paces:
                if not self._halted():
                    await self._read_at(pace, b, text, whole=whole, final=final)
        b.settled = min(b.fresh if "window" in plan.paces else len(text), b.judged if plan.sentences else len(text))
        self.scanned += max(b.settled - before, 0)

    async def _read_at(self, pace: Pace, b: _Buffer, text: str, *, whole: bool, final: bool) -> None:
        place = b.place
        if pace == "final":
            if final:
                await self._judge(b, View(place.channel, text, self._turn, choice=place.choice), _ONE[pace])
            return
        begin = b.fresh if pace == "window" else b.judged
        end = len(text) if whole or pace == "window" else _sentence_end(text, max(begin, b.heard))
        if end <= begin and not whole:
            return
        b.heard = end if pace == "sentence" else b.heard
        view = View(place.channel, text[:end], self._turn, fresh=begin, final=whole, choice=place.choice)
        read = await self._judge(b, view, _ONE[pace])
        if pace == "window":
            b.fresh = read
        else:
            b.judged = read

    async def _judge(self, b: _Buffer, view: View, paces: frozenset[Pace]) -> int:
        """Weigh what the filters find; how far their findings are settled, which is where they read on."""
        verdict = await self._guard.judge(view, paces, self._pool)
        self._errors.update(dict.fromkeys(verdict.errors))
        settled = len(view.text)
        for n, f in enumerate(verdict.findings):
            if n % TURN == TURN - 1:
                await asyncio.sleep(0)
            if not view.final and f.start < f.end >= len(view.text) and len(view.text) - f.start < max(b.plan.hold, LONGEST_OPEN):
                settled = settled if f.shadow else min(settled, f.start)
            else:
                self._weigh(b, f, view)
        return settled

    def _weigh(self, b: _Buffer, f: Finding, view: View) -> None:
        if b.plan.observed or b.plan.treat == "drop":
            f = replace(f, shadow=True)
        key = (b.place, f.filter, f.rule, f.start, f.end)
        if key in self._found:
            return
        if len(self._found) >= MOST_FINDINGS:
            if not f.shadow and not self._halted():
                self._overflow(b.place, "findings", MOST_FINDINGS)
            return
        self._found[key] = f
        if f.shadow or f.action is None or f.action is Action.ALLOW:
            return
        if f.action is Action.REDACT:
            self._redact(b, f, view)
        else:
            self._stop(f.action)

    def _redact(self, b: _Buffer, f: Finding, view: View) -> None:
        start, end = (f.start, f.end) if f.end > f.start else (0, len(view.text))
        b.redactions.append(replace(f, start=start, end=end))
        secret = fold(view.text[start:end], escapes=b.plan.escapes).text.strip()
        if len(secret) >= SHORTEST_SECRET:
            self._secrets.setdefault(secret, f.replacement)

    def _stop(self, action: Action) -> None:
        """The strictest verdict counts. What was released cannot be rewritten: then it is a block."""
        if action is Action.REWRITE and self.released:
            action = Action.BLOCK
        self.stopped = max(self.stopped or action, action)

    async def _read_name(self, b: _Buffer) -> None:
        """The name of a tool is text of the model too. A name cannot be redacted in part, so that is a block."""
        b.named = b.name
        if not b.name:
            return
        view = View(b.place.channel, b.name, self._turn, choice=b.place.choice)
        verdict = await self._guard.judge(view, _NAMES, self._pool)
        self._errors.update(dict.fromkeys(verdict.errors))
        for f in verdict.findings:
            f = replace(f, action=Action.BLOCK) if f.action is Action.REDACT else f
            self._weigh(b, replace(f, start=0, end=0), view)

    def _overfull(self) -> bool:
        """Blocks an answer of which too much can be neither released nor refused."""
        for b in self._buffers.values():
            if b.plan.treat != "filter" or b.plan.strict or b.plan.observed or not self._pending:
                continue
            if len(b.text) - b.released > self._pending and len(b.text) - self._point(b) > self._pending:
                return self._overflow(b.place, "pending", self._pending)
        return False

    def _overflow(self, place: Place, rule: str, most: int) -> bool:
        why = f"more than {most} {_OVERFLOWS[rule]}"
        self._found[(place, "release", rule, 0, 0)] = Finding("release", rule, "overflow", Action.BLOCK, why=why)
        self._stop(Action.BLOCK)
        return True

    # --- out --------------------------------------------------------------------------------------------------------------

    def _out(self, b: _Buffer, *, final: bool) -> Delta | None:
        """What may leave a buffer now. The only place that text comes out of."""
        plan = b.plan
        if plan.treat != "filter":
            return self._summary(b, final) if plan.treat == "summarise" else None
        if plan.observed:
            point = len(b.take())
        elif final:
            point = len(b.text)
        elif plan.strict:
            return None
        else:
            point = self._point(b)
        name, call_id = ("", "") if b.introduced else (b.name, b.call_id)
        if point <= b.released and not (final and (name or call_id)):
            return None
        if name and b.named != name and not plan.observed:
            return None
        text = self._redacted(b, point)
        self.released += point - b.released
        b.released = point
        b.introduced = True
        return Delta(b.place.choice, b.place.channel, text, b.place.call, name, call_id)

    def _point(self, b: _Buffer) -> int:
        """Up to where a buffer may be released: a hold-back window before the end, and before whatever is not settled."""
        text, plan = b.text, b.plan
        hold = max(plan.hold, max(map(len, self._secrets), default=0) + CONTEXT)
        done = max(min(b.closed, b.settled), b.released)
        folded = fold(text[done:], escapes=plan.escapes)
        held = len(folded.text) - hold
        if held <= 0:
            return self._outside(b, done)
        point = min(done + folded.raw(held), b.settled)
        space = text.rfind(" ", max(point - 24, done), point)
        return self._outside(b, boundary(text, space + 1 if space >= 0 else point, escapes=plan.escapes))

    def _outside(self, b: _Buffer, point: int) -> int:
        """The place itself, or the beginning of the redaction that it stands in."""
        for f in sorted(self._spans(b), key=lambda f: -f.start):
            if f.start < point < f.end:
                point = f.start
        return max(point, b.released)

    def _spans(self, b: _Buffer) -> list[Finding]:
        """The redactions of what is still held: those of this buffer, and text that was redacted elsewhere."""
        spans = [f for f in b.redactions if f.end > b.released]
        if not self._secrets:
            return spans
        folded = fold(b.text[b.released :], escapes=b.plan.escapes)
        for secret, replacement in self._secrets.items():
            at = folded.text.find(secret)
            while at >= 0:
                start, end = folded.span(at, at + len(secret))
                again = Finding("release", "again", action=Action.REDACT, replacement=replacement)
                spans.append(replace(again, start=b.released + start, end=b.released + end))
                at = folded.text.find(secret, at + len(secret))
        return spans

    def _redacted(self, b: _Buffer, point: int) -> str:
        """What is released up to a place, with every redaction in it made."""
        begin, text = b.released, b.text[b.released : point]
        if b.plan.observed or not (b.redactions or self._secrets):
            return text
        spans = []
        for f in self._spans(b):
            start, end = max(f.start, begin) - begin, min(f.end, point) - begin
            if start < end:
                instead = f.replacement
                spans.append(
                    replace(f, start=start, end=end, replacement=json.dumps(instead)[1:-1] if b.plan.escapes else instead)
                )
        return redacted(text, spans)

    def _summary(self, b: _Buffer, final: bool) -> Delta | None:
        """A sentence in place of a thought that ended, or of an answer; tool calls have none, since a program reads them."""
        if b.told or not (final or b.closed) or b.place.channel is Channel.TOOL_ARGS or not b.text.strip():
            return None
        b.told = True
        what = "thought about this in" if b.place.channel is Channel.REASONING else "answered in"
        count = len(b.text.split())
        return Delta(b.place.choice, b.place.channel, f"The model {what} {count} word{'s' * (count != 1)}, which are not shown.")


def _sentence_end(text: str, begin: int) -> int:
    """The end of the last sentence after a place; of a stretch that is too long without one; or the place."""
    end = begin
    for match in _SENTENCE_END.finditer(text, begin):
        end = match.end()
    return len(text) if end == begin and len(text) - begin >= LONGEST_SENTENCE else end
