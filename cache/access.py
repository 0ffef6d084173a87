"""Whether what is stored of private and gated models may still be shown: the Hub knows, and is asked now and then.

An answer holds for ten minutes; after that it is asked for again while the old one is shown, and one that is older
still is waited for. Where the Hub cannot be asked, what it said last holds. Models that everybody may read are never
asked about: their numbers stay, also when they are gone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from analysis.errors import (
    AccessDenied,
    HubUnreachable,
    ModelNotFound,
    RevisionNotFound,
    SubnetscopeError,
    error_from_dict,
)
from analysis.models import Pair, PinnedModel
from cache.backends.child import Child
from cache.settings import Settings
from cache.store import Store

log = logging.getLogger(__name__)

REFUSALS = (AccessDenied, ModelNotFound, RevisionNotFound)

_HOLDS, _WAITED_FOR_AFTER = 600.0, 1200.0  # seconds since an answer
_ASKED_AGAIN = 60.0  # seconds after the Hub could not be asked
_PAGE_WAITS = 5.0
_CHILD_SECONDS = 60


@dataclass(frozen=True)
class _Answer:
    refusal: SubnetscopeError | None
    at: float


class Access:
    """What the Hub last said of the restricted models in the store. Safe to call from any thread."""

    def __init__(self, store: Store, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._settings, self._clock = store, settings, clock
        self._changed = threading.Condition()
        self._answer_of: dict[PinnedModel, _Answer] = {}
        self._trouble_of: dict[PinnedModel, SubnetscopeError] = {}  # those that could not be asked about, last time
        self._due: dict[PinnedModel, float] = {}  # when to ask again
        self._asking: set[PinnedModel] = set()
        self._late: set[PinnedModel] = set()  # whose answers a page has waited for, too long
        self._children: set[Child] = set()
        self._n_threads = 0
        self._stopped = False

    def refusal(self, pair: Pair) -> SubnetscopeError | None:
        """Why results of this pair may not be shown now; None where they may. May take a few seconds at first."""
        return self.hidden([pair.key]).get(pair.key)

    def hidden(self, keys: Iterable[str] | None = None) -> dict[str, SubnetscopeError]:
        """Those of the pairs with these keys (of all, without) that may not be shown now, and why. May take a few
        seconds at first."""
        models_of_key = self._restricted(keys)
        models = {model for of_pair in models_of_key.values() for model in of_pair}
        with self._changed:
            self._ask(models)
            self._changed.wait_for(lambda: not any(map(self._is_waited_for, models)), timeout=_PAGE_WAITS)
            self._late |= {model for model in models if self._is_waited_for(model)}
            found = {key: self._refusal(of_pair) for key, of_pair in models_of_key.items()}
        return {key: refusal for key, refusal in found.items() if refusal}

    def makes_wait(self, keys: Iterable[str] | None = None) -> bool:
        """Whether `hidden` of the same would wait for the Hub."""
        models = {model for of_pair in self._restricted(keys).values() for model in of_pair}
        with self._changed:
            return any(map(self._is_needed, models))

    @property
    def is_asking(self) -> bool:
        """Whether answers are under way, or the log is still to hear of them."""
        return self._n_threads > 0

    def stop(self) -> None:
        """Ends the children; nothing is asked any more."""
        with self._changed:
            self._stopped = True
            for child in self._children:
                child.kill()

    def _restricted(self, keys: Iterable[str] | None) -> dict[str, tuple[PinnedModel, ...]]:
        if not self._settings.hide_restricted:
            return {}
        restricted = self._store.restricted()
        return restricted if keys is None else {key: restricted[key] for key in keys if key in restricted}

    def _is_needed(self, model: PinnedModel) -> bool:
        """Whether what is known of it will not do, and waiting has not been in vain yet."""
        known = self._answer_of.get(model)
        is_old = not known or self._clock() - known.at > _WAITED_FOR_AFTER
        return is_old and model not in self._trouble_of and model not in self._late

    def _is_waited_for(self, model: PinnedModel) -> bool:
        return model in self._asking and self._is_needed(model)

    def _refusal(self, models: Sequence[PinnedModel]) -> SubnetscopeError | None:
        """The first refusal among the models; what the Hub said goes before what it could not be asked."""
        answers = [(model, self._answer_of.get(model)) for model in models]
        refusals = [answer.refusal for _, answer in answers if answer and answer.refusal]
        unknown = [_cannot_ask(model, self._trouble_of.get(model)) for model, answer in answers if not answer]
        return next(iter([*refusals, *unknown]), None)

    def _ask(self, models: Collection[PinnedModel]) -> None:
        """Has a child ask about those that are due, if there are such."""
        now = self._clock()
        due = sorted((m for m in models if m not in self._asking and now >= self._due.get(m, now)), key=str)
        if due and not self._stopped:
            self._asking.update(due)
            self._n_threads += 1
            threading.Thread(target=self._hear, args=(due,), name="access", daemon=True).start()

    def _hear(self, models: Sequence[PinnedModel]) -> None:
        """What a child has to say about these models, in a thread of its own."""
        before = {model: self._state(model) for model in models}
        left = {str(model): model for model in models}
        trouble: SubnetscopeError = HubUnreachable("The Hub gave no answer in time")
        try:
            self._hear_child(left)
        except SubnetscopeError as error:
            trouble = error
        finally:
            with self._changed:
                for model in left.values():
                    self._settle(model, trouble)
            self._tell_operator(before)
            with self._changed:
                self._n_threads -= 1

    def _hear_child(self, left: dict[str, PinnedModel]) -> None:
        """Asks about these models by their texts; each is taken out of them when its answer is there."""
        child = Child("cache.backends.access", {"models": list(left)}, network=True)
        with self._changed:
            self._children.add(child)
            if self._stopped:
                child.kill()
        deadline = threading.Timer(_CHILD_SECONDS, child.kill)
        deadline.start()
        try:
            with closing(child.messages()) as messages:
                for message in messages:
                    error = error_from_dict(message["error"]) if message["error"] else None
                    with self._changed:
                        self._settle(left.pop(message["model"]), error)
        finally:
            deadline.cancel()
            with self._changed:
                self._children.discard(child)

    def _settle(self, model: PinnedModel, error: SubnetscopeError | None) -> None:
        """Takes note of what the Hub said of the model, or that it could not be asked."""
        now = self._clock()
        if error is None or isinstance(error, REFUSALS):
            self._answer_of[model] = _Answer(error, now)
            self._trouble_of.pop(model, None)
            self._due[model] = now + _HOLDS
        else:
            self._trouble_of[model] = error
            self._due[model] = now + _ASKED_AGAIN
        self._asking.discard(model)
        self._late.discard(model)
        self._changed.notify_all()

    def _state(self, model: PinnedModel) -> str:
        known, trouble = self._answer_of.get(model), self._trouble_of.get(model)
        if known:
            return f"refused ({known.refusal.saw})" if known.refusal else "shown"
        return f"unknown ({trouble.saw})" if trouble else ""

    def _tell_operator(self, before: Mapping[PinnedModel, str]) -> None:
        """One entry in the log for each change: which models are hidden from now on and why, which are shown again."""
        if self._stopped:
            return
        new = {model: state for model in before if (state := self._state(model)) != before[model]}
        for kind, words in _WORDS_OF_STATE.items():
            named = [f"{model}{state.removeprefix(kind)}" for model, state in new.items() if state.startswith(kind)]
            if named:
                log.warning("%s: %s", words, "; ".join(named))
        if again := [str(model) for model, state in new.items() if state == "shown" and before[model]]:
            log.info("results are shown again, the Hub lets this server read: %s", "; ".join(again))


_WORDS_OF_STATE = {
    "refused": "results are hidden, the Hub does not let this server read",
    "unknown": "results are hidden until the Hub can be asked whether this server may read",
}


def _cannot_ask(model: PinnedModel, trouble: SubnetscopeError | None) -> SubnetscopeError:
    saw = f"The Hub {'cannot be asked' if trouble else 'has not said yet'} whether this server may read '{model.title}'"
    return HubUnreachable(
        saw,
        expected="What was measured of private and gated models is shown only to a server that may read them",
        do="Try again in a minute",
    )
