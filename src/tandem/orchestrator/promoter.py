"""Promotes versions of fine-tuned models into endpoints, and takes them back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from tandem.artifacts.manifest import latest
from tandem.errors import ConflictError, InputError, NotFoundError, NotPromotedError
from tandem.models.loading import model_path_here
from tandem.models.lora import check_fits
from tandem.orchestrator.deploy import Deployer, no_such_endpoint
from tandem.orchestrator.evidence import comparisons, find_version, live_in_words, standing_of
from tandem.orchestrator.promotion import (
    Change,
    answers_itself,
    canary_in,
    changes,
    live_in,
    promoted,
    serves,
    taken_back,
    version_in,
    without_canary,
)
from tandem.orchestrator.promotion_rules import Version, judge
from tandem.orchestrator.releases import Act, Cause, Release
from tandem.retrieval.snapshot import find_snapshot
from tandem.specs.rag import RagSpec


class Promoter:
    """Looks up what the rules need, and has the deployer carry out what they allow.

    Args:
        storage: The cluster's storage folder.
        deployer: Changes endpoints.
    """

    def __init__(self, storage: Path, deployer: Deployer) -> None:
        self._storage = storage
        self.deployer = deployer
        self._releases = deployer.releases

    def promote(
        self,
        model: str,
        version: str | None,
        *,
        app: str | None = None,
        share: float | None = None,
        force: bool = False,
        dry_run: bool = False,
        already_there_is_fine: bool = False,
        by: str = "",
    ) -> Change:
        """Have a version answer what is asked of an endpoint's own name, or a share of that.

        Args:
            model: Its name.
            version: The id of the job that made it; None: the newest.
            app: The endpoint; None: the one that has this model, or else the only one.
            share: Of a canary, between 0 and 1; None: all.
            force: Whatever the comparisons say.
            dry_run: Say what would be done, and do nothing.
            already_there_is_fine: Then nothing changes.
            by: Whose key it is asked with.

        Raises:
            ConflictError: It answers already, or there is no place for it.
            InputError: There are several endpoints and none is named; or it doesn't fit into this one.
            ModelError: It isn't whole, or of another base model.
            NotFoundError: No such model, version or endpoint.
            NotPromotedError: The rules refuse it.
        """
        found = find_version(self._storage, model, version)
        name = self._app(model, app)
        made: list[Change] = []

        def decide(before: RagSpec) -> tuple[RagSpec, Cause]:
            after = promoted(before, found, share=share)
            if after == before and not already_there_is_fine:
                raise ConflictError(f"{found.id} answers there already", where=name)
            change = self._judged(name, found, before, after, share)
            made.append(change)
            if change.refusals and change.changed and not force and not dry_run:
                raise NotPromotedError(
                    f"{found.id} may not take over: {'; '.join(change.refusals)}",
                    where=name,
                    remedy="`--force` promotes it all the same, and is written down",
                )
            act = Act.PROMOTE if share is None else Act.CANARY
            return after, Cause(act, by, change.facts() | {"forced": bool(change.refusals)})

        self._change(name, decide, dry_run=dry_run)
        return made[0]

    def rollback(self, model: str, *, app: str | None = None, dry_run: bool = False, by: str = "") -> Change:
        """Have an endpoint answer with the version of a model that it had before; a canary of it just ends.

        Raises:
            ConflictError: It never had another one.
            InputError: There are several endpoints and none is named.
            NotFoundError: No such endpoint, or the version from before is gone.
        """
        name = self._app(model, app)
        made: list[Change] = []

        def decide(before: RagSpec) -> tuple[RagSpec, Cause]:
            notes: list[str] = []
            tried = canary_in(before, model)
            if tried is not None:
                after, was = without_canary(before, model), _id(tried.uri)
            else:
                release, then = self._before(name, before, model)
                after, was = taken_back(before, then, model), _version_of(before, model)
                notes = self._moved_on(release, after)
            for uri in (after.model, *(each.uri for each in after.adapters)):
                if named := version_in(uri):
                    latest(self._storage, *named)
            change = Change(
                app=name,
                model=model,
                version=_version_of(after, model),
                was=was,
                share=before.canary.share if tried is not None and before.canary else None,
                changed=changes(before, after),
                standing=None,
                refusals=(),
                notes=tuple(notes),
                index=self._snapshot(after),
            )
            made.append(change)
            return after, Cause(Act.ROLLBACK, by, change.facts())

        self._change(name, decide, dry_run=dry_run)
        return made[0]

    def _change(self, name: str, decide: Callable[[RagSpec], tuple[RagSpec, Cause]], *, dry_run: bool) -> None:
        if not dry_run:
            self.deployer.change(name, decide)
            return
        endpoints = self.deployer.endpoints()
        if name not in endpoints:
            raise no_such_endpoint(name, endpoints)
        decide(endpoints[name])

    def _app(self, model: str, app: str | None) -> str:
        if app is not None:
            return app
        endpoints = self.deployer.endpoints()
        having = [name for name, spec in endpoints.items() if serves(spec, model)]
        fitting = having or list(endpoints)
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            raise NotFoundError("no endpoint is deployed", remedy="`tandem deploy FILE`")
        where = "have it" if having else "could take it"
        raise InputError(f"{', '.join(fitting)} {where}", where=model, remedy="name one with --app")

    def _judged(self, app: str, version: Version, before: RagSpec, after: RagSpec, share: float | None) -> Change:
        if version.kind == "adapter":
            base = model_path_here(after.model, storage=self._storage)
            if base is not None:
                check_fits(version.folder, base)
        known = comparisons(self._storage)
        standing = standing_of(version, before, known, self._storage)
        judgement = judge(
            before,
            after,
            standing,
            live=live_in_words(before, version),
            beside=[each for each in self._beside(after) if each.id != version.id],
            snapshot=self._snapshot(after),
            canary=share is not None,
        )
        return Change(
            app=app,
            model=version.name,
            version=version.id,
            was=_version_of(before, version.name),
            share=share,
            changed=changes(before, after),
            standing=standing,
            refusals=judgement.refusals,
            notes=judgement.notes,
            index=self._snapshot(after),
        )

    def _beside(self, spec: RagSpec) -> list[Version]:
        named = [found for each in spec.adapters if (found := version_in(each.uri))]
        return [find_version(self._storage, *each) for each in named]

    def _snapshot(self, spec: RagSpec) -> str | None:
        found = find_snapshot(self._storage, spec.retriever.collection)
        return found.id if found else None

    def _before(self, app: str, now: RagSpec, model: str) -> tuple[Release, RagSpec]:
        """The latest state of an endpoint in which it had another version of a model, or answered with another."""
        for release in self._releases.of(app):
            try:
                then = RagSpec.model_validate(release.spec)
            except ValidationError:
                continue  # of a version of Tandem whose specs said other things
            settled = without_canary(then, model)
            roles = answers_itself(settled, model), answers_itself(now, model)
            moved = None not in roles and roles[0] != roles[1]
            if moved or _version_of(settled, model) != _version_of(now, model):
                return release, settled
        raise ConflictError(
            f"{model} has never stood for anything else here", where=app, remedy="`tandem models` says what is live"
        )

    def _moved_on(self, release: Release, after: RagSpec) -> list[str]:
        then, now = release.facts.get("index"), self._snapshot(after)
        if None in (then, now) or then == now:
            return []
        collection = after.retriever.collection
        return [
            f"{collection} has been indexed anew since then; `tandem index rollback {collection}` goes back to the "
            "collection from before, where one was kept"
        ]


def _version_of(spec: RagSpec, model: str) -> str | None:
    live = live_in(spec, model)
    named = version_in(live.uri if live else spec.model)
    return named[1] if named and named[0] == model else None


def _id(uri: str) -> str | None:
    named = version_in(uri)
    return named[1] if named else None
